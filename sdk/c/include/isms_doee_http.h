/* SPDX-License-Identifier: Apache-2.0
 *
 * isms_doee_http.h: HTTP requests of a Doee to servers outside; a part of the contract in isms_doee.h.
 *
 * A worker has no network: the platform sends the request. The manifest's `allow.http` must name the server by
 * the host and port of the URL, and the server's address must be public or permitted by the administrator; else
 * ISMS_FORBIDDEN. A server that cannot be reached, does not prove its name over TLS, breaks off or does not
 * answer in time is ISMS_UNAVAILABLE; isms_error says which.
 */
#ifndef ISMS_DOEE_HTTP_H
#define ISMS_DOEE_HTTP_H

#include "isms_doee.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A request. Grows at its end. */
struct isms_http_request {
    size_t size;      /* sizeof(isms_http_request) */
    isms_text method; /* GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS */
    isms_text url;    /* absolute, http or https, percent-encoded, without a user; at most 12 KiB with headers */
    const isms_pair *headers; /* at most 128; host, content-length and others of the connection are the platform's */
    size_t header_count;
    isms_text body;         /* at most 16 MiB */
    uint32_t timeout_ms;    /* until the whole answer is there; 0 for as long as the call has, 120 s at most */
    uint32_t redirects_max; /* that are followed, 0 to 5; one that wants the body again is not */
};

/* The head of an answer. Valid until the handle is released. Grows at its end. */
struct isms_http_answer {
    size_t size;
    uint32_t status; /* whatever it is, 404 and 500 included */
    uint32_t reserved;
    isms_text url;     /* that answered: the last one of the redirects that were followed */
    uint64_t body_len; /* ISMS_LEN_UNKNOWN when the server did not say */
    const isms_pair *headers; /* names in lower case; none of the connection */
    size_t header_count;
};

/* Starts a request; copies it. isms_wait waits for the head of the answer, isms_release gives it up. */
static inline isms_result isms_http_start(isms_call *call, const isms_http_request *request, isms_handle *handle) {
    if (call->host->size <= offsetof(isms_host, http_start)) return ISMS_INVALID; /* an older platform */
    return call->host->http_start(call, request, handle);
}

/* The head of the answer, or the code with which the request failed. */
static inline isms_result isms_http_answer_get(isms_call *call, isms_handle handle,
                                               const isms_http_answer **answer) {
    return call->host->http_answer(call, handle, answer);
}

/* Reads on in the body, waiting for at least one byte; *len is 0 at its end. A body has at most 16 MiB; one that
 * breaks off is ISMS_UNAVAILABLE. */
static inline isms_result isms_http_read(isms_call *call, isms_handle handle, void *buffer, size_t capacity,
                                         size_t *len) {
    return call->host->http_read(call, handle, buffer, capacity, len);
}

/* Start and wait: ISMS_OK when a server has answered. Release the handle in any case, unless it is 0. */
static inline isms_result isms_http(isms_call *call, const isms_http_request *request, isms_handle *handle,
                                    const isms_http_answer **answer) {
    size_t ready = 0;
    isms_result result = isms_http_start(call, request, handle);
    if (result == ISMS_OK) result = isms_wait(call, handle, 1, -1, &ready);
    return result == ISMS_OK ? isms_http_answer_get(call, *handle, answer) : result;
}

#ifdef __cplusplus
}
#endif

#endif

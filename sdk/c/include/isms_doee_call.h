/* SPDX-License-Identifier: Apache-2.0
 *
 * isms_doee_call.h: calls of a Doee to other Doees of its project; a part of the contract in isms_doee.h.
 *
 * The manifest's `allow.call` must name the callee, else ISMS_FORBIDDEN; the version that serves runs. A callee sees the
 * trigger ISMS_TRIGGER_CALL, the principal of its caller's call and an invocation id of its own. Its class and deadline are
 * never above those of the call that calls it, and it is cancelled with that, unless it is asynchronous. A chain of calls
 * is at most 16 deep, else ISMS_LIMIT.
 *
 * A callee that fails is ISMS_FAILED, one that does not end in its time ISMS_TIMEOUT, one whose worker dies or that
 * finds no room ISMS_UNAVAILABLE; isms_error says more.
 */
#ifndef ISMS_DOEE_CALL_H
#define ISMS_DOEE_CALL_H

#include "isms_doee.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Classes that a call may be lowered to. */
enum { ISMS_CLASS_SAME = 0, ISMS_CLASS_REALTIME = 1, ISMS_CLASS_HIGH = 2, ISMS_CLASS_NORMAL = 3, ISMS_CLASS_BATCH = 4 };

/* Of isms_invoke_request.flags: it is accepted to run by itself, survives this call, and is durable unless the callee's
 * manifest says otherwise. Its answer is its process's id. An attempt of a durable call that repeats its calls repeats
 * these with the same effect: the nth makes one process, whatever attempts ask for it. */
enum { ISMS_INVOKE_ASYNC = 1 };

/* A call. Grows at its end. */
struct isms_invoke_request {
    size_t size;              /* sizeof(isms_invoke_request) */
    isms_text doee;           /* its name */
    const isms_pair *headers; /* at most 128, 12 KiB in all; isms-* and those of a connection are the platform's */
    size_t header_count;
    isms_text body;       /* at most 16 MiB, 1 MiB if it is asynchronous */
    uint32_t class_max;   /* ISMS_CLASS_ */
    uint32_t deadline_ms; /* waiting included; 0 for the callee's own */
    uint32_t flags;
    uint32_t reserved; /* 0 */
};

/* The head of an answer. Valid until the handle is released. Grows at its end. */
struct isms_invoke_answer {
    size_t size;
    uint32_t status; /* whatever the callee says, 200 to 599; 202 for what was accepted */
    uint32_t reserved;
    isms_text process; /* the id of an asynchronous call, else empty */
    uint64_t body_len; /* ISMS_LEN_UNKNOWN when the callee did not say */
    const isms_pair *headers; /* names in lower case */
    size_t header_count;
};

/* Starts a call; copies it. isms_wait waits for the head of the answer, isms_release gives the call up. */
static inline isms_result isms_invoke_start(isms_call *call, const isms_invoke_request *request, isms_handle *handle) {
    if (call->host->size <= offsetof(isms_host, invoke_start)) return ISMS_INVALID; /* an older platform */
    return call->host->invoke_start(call, request, handle);
}

/* The head of the answer, or the code with which the call failed. */
static inline isms_result isms_invoke_answer_get(isms_call *call, isms_handle handle,
                                                 const isms_invoke_answer **answer) {
    return call->host->invoke_answer(call, handle, answer);
}

/* Reads on in the body, waiting for at least one byte; *len is 0 at its end. A body that breaks off is
 * ISMS_UNAVAILABLE. */
static inline isms_result isms_invoke_read(isms_call *call, isms_handle handle, void *buffer, size_t capacity,
                                           size_t *len) {
    return call->host->invoke_read(call, handle, buffer, capacity, len);
}

/* Start and wait: ISMS_OK when the callee has answered. Release the handle in any case, unless it is 0. */
static inline isms_result isms_invoke(isms_call *call, const isms_invoke_request *request, isms_handle *handle,
                                      const isms_invoke_answer **answer) {
    size_t ready = 0;
    isms_result result = isms_invoke_start(call, request, handle);
    if (result == ISMS_OK) result = isms_wait(call, handle, 1, -1, &ready);
    return result == ISMS_OK ? isms_invoke_answer_get(call, *handle, answer) : result;
}

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * isms_doee.h: the contract between a Doee (a shared object) and the Doee Executor that runs it.
 *
 * A Doee exports `isms_doee_v1`. The executor calls create, initialize, then execute once for each
 * trigger, one at a time, then terminate and destroy; all on one thread. Whatever it hands over it
 * owns, until the function that it called returns; it never frees what the Doee allocated. Nothing may
 * unwind across this boundary. Only the thread that runs one of these functions may call the host;
 * another one gets ISMS_WRONG_THREAD. The host checks what it is given: NULL, lengths, a call or handle
 * that has ended are answered with a code, and `isms_error` says what was wrong.
 *
 * Growth: tables and isms_request are only appended to; `size` says how much of them the other side
 * has. The structs that are used in arrays never change.
 */
#ifndef ISMS_DOEE_H
#define ISMS_DOEE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ISMS_DOEE_ABI 1u
#define ISMS_DOEE_EXPORT __attribute__((visibility("default")))
#define ISMS_LEN_UNKNOWN UINT64_MAX /* of a body */
#define ISMS_ROWS_ANY INT64_C(-1)   /* of isms_statement.rows_demanded */

typedef int32_t isms_result;
enum {
    ISMS_OK = 0,
    ISMS_CANCELLED = 1,        /* the caller no longer wants the answer: return soon */
    ISMS_DEADLINE = 2,         /* the call's time is over: return soon */
    ISMS_WRONG_THREAD = 3,     /* not the thread that runs execute */
    ISMS_FORBIDDEN = 4,        /* the manifest's `allow` does not name it, or the administrator forbids it */
    ISMS_CONDITION_FAILED = 5, /* a demanded row count did not hold; nothing was changed */
    ISMS_LIMIT = 6,            /* over a limit; nothing was changed */
    ISMS_DATABASE = 7,         /* the database refused a statement; nothing was changed */
    ISMS_INVALID = 8,          /* an argument makes no sense, or the call or handle has ended */
    ISMS_UNAVAILABLE = 9,      /* whoever should answer is not there, or broke off */
    ISMS_NOT_FOUND = 10,       /* there is no such thing */
    ISMS_TIMEOUT = 11,         /* the timeout given to isms_wait passed, or the time of a called Doee */
    ISMS_FAILED = 12,          /* for the Doee's own failures, and those of a called one */
    ISMS_INTERNAL = 13         /* a bug in the platform */
};

/* Bytes with a length and no terminating zero; text is UTF-8. `data` may be NULL when `len` is 0. */
typedef struct isms_text { const char *data; size_t len; } isms_text;
typedef struct isms_pair { isms_text name, value; } isms_pair;

enum { ISMS_NULL = 0, ISMS_INTEGER = 1, ISMS_REAL = 2, ISMS_TEXT = 3, ISMS_BLOB = 4, ISMS_BOOLEAN = 5 };

/* A value of a parameter or a column. A boolean (parameters of the manifest only) is in `integer`. */
typedef struct isms_value {
    uint32_t kind;
    uint32_t reserved; /* 0 */
    union {
        int64_t integer;
        double real;
        isms_text text; /* text and blob */
    } as;
} isms_value;

/* An entry of the manifest's `params`. */
typedef struct isms_param { isms_text name; isms_value value; } isms_param;

/* A schedule has no method, the path / and the header fields isms-planned and isms-schedule. */
enum { ISMS_TRIGGER_HTTP = 1, ISMS_TRIGGER_DIRECT = 2, ISMS_TRIGGER_SCHEDULE = 3, ISMS_TRIGGER_CALL = 4 };

/* What triggered an execute. */
typedef struct isms_request {
    size_t size;
    uint32_t trigger;
    uint32_t attempt;        /* from 1; effects may have happened in an earlier one */
    isms_text invocation_id; /* the same in every attempt */
    isms_text method;        /* empty unless the trigger is HTTP */
    isms_text path;          /* below the project, percent-decoded */
    isms_text route;         /* the pattern that matched, such as /machines/{id} */
    isms_text query;         /* as sent, without ? */
    isms_text principal;     /* who asks, as verified; empty for nobody */
    isms_text trace;         /* W3C traceparent */
    uint64_t deadline_us;    /* on CLOCK_MONOTONIC; 0 for none */
    uint64_t body_len;       /* ISMS_LEN_UNKNOWN when the sender did not say */
    const isms_pair *parameters; /* of the route's pattern, in its order */
    size_t parameter_count;
    const isms_pair *headers; /* names in lower case */
    size_t header_count;
} isms_request;

/* One SQL statement, with ? for each parameter. */
typedef struct isms_statement {
    isms_text sql;
    const isms_value *parameters;
    size_t parameter_count;
    int64_t rows_demanded; /* rows that it must return or change, else the transaction is undone */
} isms_statement;

/* What a statement returned: `values` holds row after row. Valid until the handle is released. */
typedef struct isms_rows {
    uint64_t rows_changed;
    size_t row_count;
    size_t column_count;
    const isms_text *columns;
    const isms_value *values;
} isms_rows;

typedef uint64_t isms_handle; /* of a host call; 0 is none */
enum { ISMS_LOG_DEBUG = 0, ISMS_LOG_INFO = 1, ISMS_LOG_WARN = 2, ISMS_LOG_ERROR = 3 };

typedef struct isms_call isms_call;
typedef struct isms_http_request isms_http_request; /* isms_doee_http.h: servers outside */
typedef struct isms_http_answer isms_http_answer;
typedef struct isms_invoke_request isms_invoke_request; /* isms_doee_call.h: other Doees */
typedef struct isms_invoke_answer isms_invoke_answer;

/* What the host offers. Use the functions below rather than the table. */
typedef struct isms_host {
    size_t size;
    uint32_t abi;
    uint32_t reserved;
    isms_text (*error)(isms_call *call);
    isms_result (*fail)(isms_call *call, isms_text message);
    isms_result (*log)(isms_call *call, uint32_t level, isms_text line);
    isms_result (*params)(isms_call *call, const isms_param **params, size_t *count);
    isms_result (*request)(isms_call *call, const isms_request **request);
    isms_result (*check)(isms_call *call);
    isms_result (*body)(isms_call *call, isms_text *body);
    isms_result (*body_read)(isms_call *call, void *buffer, size_t capacity, size_t *len);
    isms_result (*respond_begin)(isms_call *call, uint32_t status, const isms_pair *headers, size_t count,
                                 uint64_t body_len);
    isms_result (*respond_write)(isms_call *call, const void *data, size_t len);
    isms_result (*sql_start)(isms_call *call, isms_text database, const isms_statement *statements,
                             size_t count, isms_handle *handle);
    isms_result (*wait)(isms_call *call, const isms_handle *handles, size_t count, int64_t timeout_us,
                        size_t *ready);
    isms_result (*sql_rows)(isms_call *call, isms_handle handle, size_t statement, isms_rows *rows);
    isms_result (*release)(isms_call *call, isms_handle handle);
    isms_result (*http_start)(isms_call *call, const isms_http_request *request, isms_handle *handle);
    isms_result (*http_answer)(isms_call *call, isms_handle handle, const isms_http_answer **answer);
    isms_result (*http_read)(isms_call *call, isms_handle handle, void *buffer, size_t capacity, size_t *len);
    isms_result (*invoke_start)(isms_call *call, const isms_invoke_request *request, isms_handle *handle);
    isms_result (*invoke_answer)(isms_call *call, isms_handle handle, const isms_invoke_answer **answer);
    isms_result (*invoke_read)(isms_call *call, isms_handle handle, void *buffer, size_t capacity, size_t *len);
} isms_host;

/* One run of a function of the Doee's table. */
struct isms_call { const isms_host *host; };

/* What the Doee offers; static, all functions set. create returns NULL when it fails; the others say
 * why with isms_fail. A Doee that answers nothing before execute returns ISMS_OK has failed, too. */
typedef struct isms_doee_table {
    size_t size;  /* sizeof(isms_doee_table) */
    uint32_t abi; /* ISMS_DOEE_ABI */
    uint32_t reserved;
    void *(*create)(isms_call *call);
    void (*destroy)(void *doee);
    isms_result (*initialize)(void *doee, isms_call *call);
    isms_result (*execute)(void *doee, isms_call *call);
    void (*terminate)(void *doee, isms_call *call);
} isms_doee_table;

ISMS_DOEE_EXPORT const isms_doee_table *isms_doee_v1(void);

/* ---- At any time ---- */
/* Why the last host call failed; valid until the next one. */
static inline isms_text isms_error(isms_call *call) { return call->host->error(call); }

/* Says why the function that runs is about to fail. The caller sees it. */
static inline isms_result isms_fail(isms_call *call, isms_text message) { return call->host->fail(call, message); }

/* Logs lines; over the limit of one call the rest is dropped, and the log says so. */
static inline isms_result isms_log(isms_call *call, uint32_t level, isms_text line) {
    return call->host->log(call, level, line);
}

/* The manifest's `params`. */
static inline isms_result isms_params(isms_call *call, const isms_param **params, size_t *count) {
    return call->host->params(call, params, count);
}

/* ---- In execute only; everywhere else they answer ISMS_INVALID ---- */

static inline isms_result isms_request_get(isms_call *call, const isms_request **request) {
    return call->host->request(call, request);
}

/* ISMS_CANCELLED or ISMS_DEADLINE when it is time to stop; for long computations. */
static inline isms_result isms_check(isms_call *call) { return call->host->check(call); }

/* The whole body when it is small, without copying; else ISMS_LIMIT: read it piece by piece. */
static inline isms_result isms_body(isms_call *call, isms_text *body) { return call->host->body(call, body); }

/* Reads on in the body, waiting for at least one byte; *len is 0 at its end. */
static inline isms_result isms_body_read(isms_call *call, void *buffer, size_t capacity, size_t *len) {
    return call->host->body_read(call, buffer, capacity, len);
}

/* Begins the answer, once: a status from 200 to 599, header fields but those that frame a message (such
 * as content-length). A body_len that is known is a promise. */
static inline isms_result isms_respond_begin(isms_call *call, uint32_t status, const isms_pair *headers,
                                             size_t count, uint64_t body_len) {
    return call->host->respond_begin(call, status, headers, count, body_len);
}

/* Goes on with it. Copies; waits while the reader is slow. */
static inline isms_result isms_respond_write(isms_call *call, const void *data, size_t len) {
    return call->host->respond_write(call, data, len);
}

/* Starts a transaction: all statements or none. */
static inline isms_result isms_sql_start(isms_call *call, isms_text database, const isms_statement *statements,
                                         size_t count, isms_handle *handle) {
    return call->host->sql_start(call, database, statements, count, handle);
}

/* Waits until one of the host calls has ended and sets *ready to its index. A negative timeout waits
 * until the call's deadline. */
static inline isms_result isms_wait(isms_call *call, const isms_handle *handles, size_t count,
                                    int64_t timeout_us, size_t *ready) {
    return call->host->wait(call, handles, count, timeout_us, ready);
}

/* What a statement of an ended transaction returned, or the code with which the transaction failed. */
static inline isms_result isms_sql_rows(isms_call *call, isms_handle handle, size_t statement, isms_rows *rows) {
    return call->host->sql_rows(call, handle, statement, rows);
}

/* Lets go of a host call and its rows, and gives it up when it has not ended. The end of execute does
 * so for all. */
static inline isms_result isms_release(isms_call *call, isms_handle handle) {
    return call->host->release(call, handle);
}

/* Start and wait: ISMS_OK when the transaction has taken effect. */
static inline isms_result isms_sql(isms_call *call, isms_text database, const isms_statement *statements,
                                   size_t count, isms_handle *handle) {
    size_t ready = 0;
    isms_rows rows;
    isms_result result = isms_sql_start(call, database, statements, count, handle);
    if (result == ISMS_OK) result = isms_wait(call, handle, 1, -1, &ready);
    return result == ISMS_OK ? isms_sql_rows(call, *handle, 0, &rows) : result;
}

#ifdef __cplusplus
}
#endif

#endif

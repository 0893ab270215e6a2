/* A Doee that asks servers outside, by path. */
#include <isms_doee_http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT(literal) ((isms_text){literal, sizeof(literal) - 1})

static int is(isms_text text, const char *wanted) {
    return text.len == strlen(wanted) && memcmp(text.data, wanted, text.len) == 0;
}

static isms_result answer(isms_call *call, const char *text) {
    isms_result result = isms_respond_begin(call, 200, NULL, 0, ISMS_LEN_UNKNOWN);
    return result ? result : isms_respond_write(call, text, strlen(text));
}

static isms_result answer_code(isms_call *call, isms_result code) {
    char line[512];
    isms_text error = isms_error(call);
    snprintf(line, sizeof line, "%d %.*s", code, (int)error.len, error.data ? error.data : "");
    return answer(call, line);
}

static isms_http_request request(const char *method, isms_text body) {
    static const isms_pair headers[] = {{{"X-Mine", 6}, {"a\xff", 2}}};
    isms_http_request request = {sizeof request, {method, strlen(method)}, TEXT("https://a.b/c"), headers, 1, body, 1500, 3};
    return request;
}

/* Status, URL, first field and length, then the body's length and the sum of its bytes. */
static isms_result tell(isms_call *call, isms_handle handle, const isms_http_answer *head) {
    char text[512], buffer[10000];
    unsigned long sum = 0;
    size_t total = 0, len;
    isms_result result;
    for (;;) {
        result = isms_http_read(call, handle, buffer, sizeof buffer, &len);
        if (result) return answer_code(call, result);
        if (len == 0) break;
        total += len;
        for (size_t at = 0; at < len; at++) sum += (unsigned char)buffer[at];
    }
    snprintf(text, sizeof text, "%u %.*s %.*s=%.*s %lld: %zu %lu", head->status, (int)head->url.len, head->url.data,
             (int)head->headers[0].name.len, head->headers[0].name.data, (int)head->headers[0].value.len,
             head->headers[0].value.data, (long long)head->body_len, total, sum);
    return answer(call, text);
}

static isms_result fetch(isms_call *call, const char *method, isms_text body) {
    isms_http_request asked = request(method, body);
    const isms_http_answer *head = NULL;
    isms_handle handle = 0;
    isms_result result = isms_http(call, &asked, &handle, &head);
    return result ? answer_code(call, result) : tell(call, handle, head);
}

static isms_result leave(isms_call *call) {
    isms_http_request asked = request("GET", TEXT(""));
    const isms_http_answer *head;
    isms_handle handle;
    char buffer[3];
    size_t len;
    isms_result result = isms_http(call, &asked, &handle, &head);
    if (!result) result = isms_http_read(call, handle, buffer, sizeof buffer, &len);
    if (!result) result = isms_release(call, handle);
    return result ? answer_code(call, result) : answer(call, "left");
}

static isms_result misuse(isms_call *call) {
    char text[256] = "", buffer[8];
    size_t used = 0, len;
    const isms_http_answer *head;
    isms_rows rows;
    isms_handle handle = 0, sql = 0;
    isms_statement select = {TEXT("select 1"), NULL, 0, ISMS_ROWS_ANY};
    isms_http_request good = request("GET", TEXT("")), short_one = good, framing = good, many = good, text_less = good;
    isms_pair length = {TEXT("Content-Length"), TEXT("1")};
    short_one.size = sizeof(size_t);
    framing.headers = &length;
    many.header_count = 129;
    text_less.url = (isms_text){"\xff", 1};
    isms_result early = isms_http_start(call, &good, &handle) ? -1 : isms_http_read(call, handle, buffer, 8, &len);
    isms_result early_sql = isms_sql_start(call, TEXT("d"), &select, 1, &sql);
    isms_result results[] = {
        isms_http_start(call, NULL, &handle),
        isms_http_start(call, &good, NULL),
        isms_http_start(call, &short_one, &handle),
        isms_http_start(call, &framing, &handle),
        isms_http_start(call, &many, &handle),
        isms_http_start(call, &text_less, &handle),
        isms_http_answer_get(call, 12345, &head),
        isms_http_read(call, 12345, buffer, 8, &len),
        early,
        early_sql,
        isms_wait(call, &sql, 1, -1, &len),
        isms_http_answer_get(call, sql, &head),
        isms_http_read(call, sql, buffer, 8, &len),
        isms_sql_rows(call, sql - 1, 0, &rows),
    };
    for (size_t at = 0; at < sizeof results / sizeof *results; at++)
        used += snprintf(text + used, sizeof text - used, "%d ", results[at]);
    return answer(call, text);
}

static void *create(isms_call *call) {
    (void)call;
    return malloc(1);
}

static void destroy(void *doee) { free(doee); }

static isms_result initialize(void *doee, isms_call *call) {
    isms_http_request early = request("GET", TEXT(""));
    isms_handle handle;
    (void)doee;
    return isms_http_start(call, &early, &handle) == ISMS_INVALID ? ISMS_OK : ISMS_FAILED;
}

static isms_result execute(void *doee, isms_call *call) {
    static char big[300 * 1024];
    const isms_request *asked;
    isms_result result = isms_request_get(call, &asked);
    (void)doee;
    if (result) return result;
    if (is(asked->path, "/get")) return fetch(call, "GET", TEXT(""));
    if (is(asked->path, "/post")) return fetch(call, "POST", TEXT("body"));
    if (is(asked->path, "/post-big")) return memset(big, 1, sizeof big), fetch(call, "POST", (isms_text){big, sizeof big});
    if (is(asked->path, "/leave")) return leave(call);
    if (is(asked->path, "/misuse")) return misuse(call);
    return isms_fail(call, TEXT("unknown path")), ISMS_FAILED;
}

static void terminate(void *doee, isms_call *call) { (void)doee, (void)call; }

static const isms_doee_table TABLE = {sizeof TABLE, ISMS_DOEE_ABI, 0, create, destroy, initialize, execute, terminate};
const isms_doee_table *isms_doee_v1(void) { return &TABLE; }

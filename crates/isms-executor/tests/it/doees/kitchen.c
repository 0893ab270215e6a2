/* A Doee that does, by path, everything that the executor must get right. */
#include <isms_doee.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT(literal) ((isms_text){literal, sizeof(literal) - 1})

static isms_call *earlier_call;

static int is(isms_text text, const char *wanted) {
    return text.len == strlen(wanted) && memcmp(text.data, wanted, text.len) == 0;
}

static isms_result answer(isms_call *call, const char *text) {
    isms_pair header = {TEXT("Content-Type"), TEXT("text/plain")};
    isms_result result = isms_respond_begin(call, 200, &header, 1, ISMS_LEN_UNKNOWN);
    return result ? result : isms_respond_write(call, text, strlen(text));
}

static isms_result answer_code(isms_call *call, isms_result code) {
    char line[512];
    isms_text error = isms_error(call);
    snprintf(line, sizeof line, "%d %.*s", code, (int)error.len, error.data ? error.data : "");
    return answer(call, line);
}

static isms_result echo(isms_call *call) {
    char buffer[8 * 1024];
    size_t len = 0;
    isms_result result = isms_respond_begin(call, 200, NULL, 0, ISMS_LEN_UNKNOWN);
    while (result == ISMS_OK) {
        result = isms_body_read(call, buffer, sizeof buffer, &len);
        if (result != ISMS_OK || len == 0) return result;
        result = isms_respond_write(call, buffer, len);
    }
    return result;
}

static isms_result params(isms_call *call) {
    char text[1024] = "";
    const isms_param *params;
    size_t count, at, used = 0;
    isms_result result = isms_params(call, &params, &count);
    if (result) return result;
    for (at = 0; at < count; at++) {
        const isms_value *value = &params[at].value;
        used += snprintf(text + used, sizeof text - used, "%.*s=", (int)params[at].name.len, params[at].name.data);
        if (value->kind == ISMS_INTEGER) used += snprintf(text + used, sizeof text - used, "i%lld;", (long long)value->as.integer);
        if (value->kind == ISMS_REAL) used += snprintf(text + used, sizeof text - used, "r%g;", value->as.real);
        if (value->kind == ISMS_BOOLEAN) used += snprintf(text + used, sizeof text - used, "b%lld;", (long long)value->as.integer);
        if (value->kind == ISMS_TEXT) used += snprintf(text + used, sizeof text - used, "t%.*s;", (int)value->as.text.len, value->as.text.data);
    }
    return answer(call, text);
}

static isms_result describe(isms_call *call) {
    char text[2048];
    const isms_request *r;
    isms_result result = isms_request_get(call, &r);
    if (result) return result;
    snprintf(text, sizeof text, "%u %u %.*s %.*s %.*s %.*s %.*s %.*s=%.*s %.*s=%.*s %llu", r->trigger, r->attempt,
             (int)r->method.len, r->method.data, (int)r->path.len, r->path.data, (int)r->route.len, r->route.data,
             (int)r->query.len, r->query.data, (int)r->principal.len, r->principal.data,
             (int)r->parameters[0].name.len, r->parameters[0].name.data, (int)r->parameters[0].value.len, r->parameters[0].value.data,
             (int)r->headers[0].name.len, r->headers[0].name.data, (int)r->headers[0].value.len, r->headers[0].value.data,
             (unsigned long long)r->body_len);
    return answer(call, text);
}

static isms_result sql(isms_call *call) {
    isms_value parameters[5] = {
        {.kind = ISMS_NULL}, {.kind = ISMS_INTEGER, .as.integer = -7}, {.kind = ISMS_REAL, .as.real = 0.5},
        {.kind = ISMS_TEXT, .as.text = {"text", 4}}, {.kind = ISMS_BLOB, .as.text = {"\0\xff", 2}}};
    isms_statement statements[2] = {
        {TEXT("insert into t values (?, ?, ?, ?, ?)"), parameters, 5, 1}, {TEXT("select a, b from t"), NULL, 0, ISMS_ROWS_ANY}};
    isms_handle handle;
    isms_rows rows;
    char text[512];
    isms_result result = isms_sql(call, TEXT("readings"), statements, 2, &handle);
    if (result) return answer_code(call, result);
    if ((result = isms_sql_rows(call, handle, 1, &rows))) return result;
    snprintf(text, sizeof text, "%zu rows, %.*s=%lld, %.*s=%.*s", rows.row_count, (int)rows.columns[0].len,
             rows.columns[0].data, (long long)rows.values[2].as.integer, (int)rows.columns[1].len,
             rows.columns[1].data, (int)rows.values[3].as.text.len, rows.values[3].as.text.data);
    return answer(call, text);
}

static isms_result sql_big(isms_call *call) {
    static char blob[300 * 1024];
    isms_value parameter = {.kind = ISMS_BLOB, .as.text = {blob, sizeof blob}};
    isms_statement statement = {TEXT("insert into t values (?)"), &parameter, 1, ISMS_ROWS_ANY};
    isms_handle handle;
    isms_rows rows;
    char text[64];
    isms_result result = isms_sql(call, TEXT("readings"), &statement, 1, &handle);
    if (result) return answer_code(call, result);
    if ((result = isms_sql_rows(call, handle, 0, &rows))) return result;
    snprintf(text, sizeof text, "%zu", rows.values[0].as.text.len);
    return answer(call, text);
}

static const isms_statement ONE = {{"select 1", 8}, NULL, 0, ISMS_ROWS_ANY};

static isms_result sql_two(isms_call *call) {
    isms_handle handles[2];
    size_t first = 9, last = 9;
    char text[64];
    isms_result result = isms_sql_start(call, TEXT("a"), &ONE, 1, &handles[0]);
    if (!result) result = isms_sql_start(call, TEXT("b"), &ONE, 1, &handles[1]);
    if (!result) result = isms_wait(call, handles, 2, -1, &first);
    if (!result) result = isms_release(call, handles[first]);
    if (!result) result = isms_wait(call, handles, 1, -1, &last);
    if (result) return answer_code(call, result);
    snprintf(text, sizeof text, "%zu then %zu", first, last);
    return answer(call, text);
}

/* Begins five transactions, and sees or lets go of some in between. */
static isms_result sql_order(isms_call *call) {
    isms_handle handles[5];
    size_t ready;
    isms_result result = isms_sql_start(call, TEXT("a"), &ONE, 1, &handles[0]);
    if (!result) result = isms_sql_start(call, TEXT("a"), &ONE, 1, &handles[1]);
    if (!result) result = isms_wait(call, &handles[1], 1, -1, &ready);
    if (!result) result = isms_sql_start(call, TEXT("a"), &ONE, 1, &handles[2]);
    if (!result) result = isms_wait(call, &handles[0], 1, -1, &ready);
    if (!result) result = isms_sql_start(call, TEXT("a"), &ONE, 1, &handles[3]);
    if (!result) result = isms_release(call, handles[2]);
    if (!result) result = isms_wait(call, &handles[3], 1, -1, &ready);
    if (!result) result = isms_release(call, handles[3]);
    if (!result) result = isms_sql_start(call, TEXT("a"), &ONE, 1, &handles[4]);
    return answer_code(call, result);
}

static isms_result sql_timeout(isms_call *call) {
    isms_handle handle;
    size_t ready;
    isms_result result = isms_sql_start(call, TEXT("a"), &ONE, 1, &handle);
    if (!result) result = isms_wait(call, &handle, 1, 1000, &ready);
    return answer_code(call, result);
}

static isms_result sql_wait(isms_call *call) {
    isms_handle handle;
    return isms_sql(call, TEXT("readings"), &ONE, 1, &handle);
}

static isms_result flood(isms_call *call) {
    int line;
    for (line = 0; line < 20000; line++) {
        isms_result result = isms_log(call, ISMS_LOG_INFO, TEXT("a line of the flood"));
        if (result) return result;
    }
    return answer(call, "flooded");
}

static void *from_another_thread(void *call) {
    static char text[128];
    isms_result result = isms_log(call, ISMS_LOG_INFO, TEXT("no"));
    isms_text error = isms_error(call);
    snprintf(text, sizeof text, "%d %.*s", result, (int)error.len, error.data);
    return text;
}

static isms_result thread(isms_call *call) {
    pthread_t other;
    void *text;
    if (pthread_create(&other, NULL, from_another_thread, call)) return isms_fail(call, TEXT("no thread")), ISMS_FAILED;
    pthread_join(other, &text);
    return answer(call, text);
}

static isms_result misuse(isms_call *call) {
    char text[256] = "";
    size_t used = 0, ready;
    isms_handle handle;
    isms_rows rows;
    isms_statement null_sql = {{NULL, 5}, NULL, 0, ISMS_ROWS_ANY};
    isms_statement null_parameters = {TEXT("select ?"), NULL, 3, ISMS_ROWS_ANY};
    isms_value odd = {.kind = 77};
    isms_statement odd_parameter = {TEXT("select ?"), &odd, 1, ISMS_ROWS_ANY};
    isms_statement broken_text = {{"\xff", 1}, NULL, 0, ISMS_ROWS_ANY};
    isms_call invented = {call->host};
    isms_pair bad = {TEXT("bad name"), TEXT("x")};
    isms_result results[] = {
        isms_body_read(call, NULL, 10, &ready),
        isms_body_read(call, text, sizeof text, NULL),
        isms_body_read(call, text, 0, &ready),
        isms_request_get(call, NULL),
        isms_params(call, NULL, NULL),
        isms_log(call, 99, TEXT("x")),
        isms_log(call, ISMS_LOG_INFO, (isms_text){NULL, 4}),
        isms_log(call, ISMS_LOG_INFO, (isms_text){"x", SIZE_MAX}),
        isms_log(&invented, ISMS_LOG_INFO, TEXT("x")),
        isms_log(earlier_call ? earlier_call : &invented, ISMS_LOG_INFO, TEXT("x")),
        isms_sql_start(call, TEXT("d"), NULL, 1, &handle),
        isms_sql_start(call, TEXT("d"), &ONE, 0, &handle),
        isms_sql_start(call, TEXT("d"), &ONE, 1, NULL),
        isms_sql_start(call, TEXT("d"), &null_sql, 1, &handle),
        isms_sql_start(call, TEXT("d"), &null_parameters, 1, &handle),
        isms_sql_start(call, TEXT("d"), &odd_parameter, 1, &handle),
        isms_sql_start(call, TEXT("d"), &broken_text, 1, &handle),
        isms_wait(call, NULL, 0, 0, &ready),
        isms_wait(call, &(isms_handle){12345}, 1, 0, &ready),
        isms_sql_rows(call, 12345, 0, &rows),
        isms_release(call, 12345),
        isms_respond_write(call, "x", 1),
        isms_respond_begin(call, 199, NULL, 0, 0),
        isms_respond_begin(call, 200, NULL, 3, 0),
        isms_respond_begin(call, 200, &bad, 1, 0),
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
    (void)doee;
    return isms_log(call, ISMS_LOG_INFO, TEXT("initialized"));
}

static isms_result execute(void *doee, isms_call *call) {
    const isms_request *request;
    isms_result result = isms_request_get(call, &request);
    (void)doee;
    if (result) return result;
    if (is(request->path, "/hello")) return earlier_call = call, answer(call, "hello");
    if (is(request->path, "/echo")) return echo(call);
    if (is(request->path, "/params")) return params(call);
    if (is(request->path, "/describe")) return describe(call);
    if (is(request->path, "/sql")) return sql(call);
    if (is(request->path, "/sql-big")) return sql_big(call);
    if (is(request->path, "/sql-two")) return sql_two(call);
    if (is(request->path, "/sql-order")) return sql_order(call);
    if (is(request->path, "/sql-timeout")) return sql_timeout(call);
    if (is(request->path, "/sql-wait")) return sql_wait(call);
    if (is(request->path, "/flood")) return flood(call);
    if (is(request->path, "/thread")) return thread(call);
    if (is(request->path, "/misuse")) return misuse(call);
    if (is(request->path, "/nothing")) return ISMS_OK;
    if (is(request->path, "/fail")) return isms_fail(call, TEXT("the reason")), ISMS_FAILED;
    if (is(request->path, "/claims-cancel")) return ISMS_CANCELLED;
    if (is(request->path, "/abort")) abort();
    if (is(request->path, "/segv")) *(volatile int *)8 = 1;
    if (is(request->path, "/short")) return isms_respond_begin(call, 200, NULL, 0, 10);
    return isms_fail(call, TEXT("unknown path")), ISMS_FAILED;
}

static void terminate(void *doee, isms_call *call) {
    (void)doee;
    isms_log(call, ISMS_LOG_INFO, TEXT("terminated"));
}

static const isms_doee_table TABLE = {sizeof TABLE, ISMS_DOEE_ABI, 0, create, destroy, initialize, execute, terminate};
const isms_doee_table *isms_doee_v1(void) { return &TABLE; }

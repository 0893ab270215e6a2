/* A Doee that calls other Doees, by path. */
#include <isms_doee_call.h>
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

static isms_invoke_request asked(uint32_t flags) {
    static const isms_pair headers[] = {{{"X-Mine", 6}, {"a\xff", 2}}};
    isms_invoke_request asked = {sizeof asked, TEXT("other"), headers, 1, TEXT("body"), ISMS_CLASS_BATCH, 250, flags, 0};
    return asked;
}

/* Status, process, first field and length, then the body's length. */
static isms_result invoke(isms_call *call, uint32_t flags) {
    isms_invoke_request request = asked(flags);
    const isms_invoke_answer *head = NULL;
    isms_handle handle = 0;
    char text[512], buffer[10000];
    size_t total = 0, len = 1;
    isms_result result = isms_invoke(call, &request, &handle, &head);
    while (!result && len) {
        result = isms_invoke_read(call, handle, buffer, sizeof buffer, &len);
        total += result ? 0 : len;
    }
    if (result) return answer_code(call, result);
    const isms_pair none = {{"", 0}, {"", 0}};
    const isms_pair *field = head->header_count ? head->headers : &none;
    snprintf(text, sizeof text, "%u <%.*s> %.*s=%.*s %lld: %zu", head->status, (int)head->process.len, head->process.data,
             (int)field->name.len, field->name.data, (int)field->value.len, field->value.data, (long long)head->body_len,
             total);
    return answer(call, text);
}

static isms_result misuse(isms_call *call) {
    isms_handle handle = 7;
    const isms_invoke_answer *head;
    char buffer[4], line[256] = "";
    size_t len;
    isms_invoke_request request = asked(0), unsized = asked(0), unknown = asked(2), classless = asked(0), long_name = asked(0);
    static char name[64];
    memset(name, 'x', sizeof name);
    unsized.size = 1;
    classless.class_max = 5;
    long_name.doee = (isms_text){name, sizeof name};
    const isms_pair reserved = {TEXT("ISMS-Planned"), TEXT("1")};
    isms_invoke_request forged = asked(0);
    forged.headers = &reserved;
    isms_result results[] = {
        isms_invoke_start(call, NULL, &handle),          isms_invoke_start(call, &request, NULL),
        isms_invoke_start(call, &unsized, &handle),      isms_invoke_start(call, &unknown, &handle),
        isms_invoke_start(call, &classless, &handle),    isms_invoke_start(call, &long_name, &handle),
        isms_invoke_start(call, &forged, &handle),       isms_invoke_answer_get(call, 99, &head),
        isms_invoke_read(call, 99, buffer, sizeof buffer, &len), isms_invoke_start(call, &request, &handle),
        isms_invoke_answer_get(call, handle, &head),     isms_release(call, handle),
    };
    for (size_t at = 0; at < sizeof results / sizeof *results; at++) {
        snprintf(line + strlen(line), sizeof line - strlen(line), "%d ", results[at]);
    }
    return answer(call, line);
}

static void *create(isms_call *call) { (void)call; static int doee; return &doee; }
static void destroy(void *doee) { (void)doee; }
static isms_result initialize(void *doee, isms_call *call) { (void)doee; (void)call; return ISMS_OK; }
static void terminate(void *doee, isms_call *call) { (void)doee; (void)call; }
static isms_result execute(void *doee, isms_call *call) {
    (void)doee;
    const isms_request *request;
    isms_result result = isms_request_get(call, &request);
    if (result) return result;
    if (is(request->path, "/async")) return invoke(call, ISMS_INVOKE_ASYNC);
    if (is(request->path, "/misuse")) return misuse(call);
    return invoke(call, 0);
}

const isms_doee_table *isms_doee_v1(void) {
    static const isms_doee_table table = {sizeof(isms_doee_table), ISMS_DOEE_ABI, 0, create, destroy, initialize, execute, terminate};
    return &table;
}

#include <isms_doee.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a worker keeps from call to call. */
struct hello {
    char greeting[64];
};

static isms_text text(const char *from) { return (isms_text){from, strlen(from)}; }

/* Makes the Doee; NULL when that fails. */
static void *hello_create(isms_call *call) {
    (void)call;
    return calloc(1, sizeof(struct hello));
}

static void hello_destroy(void *doee) { free(doee); }

/* Once per worker, before the first call: read parameters, prepare what all calls need. */
static isms_result hello_initialize(void *doee, isms_call *call) {
    struct hello *hello = doee;
    const isms_param *params;
    size_t count;
    isms_result result = isms_params(call, &params, &count);
    if (result != ISMS_OK) return result;
    strcpy(hello->greeting, "hello");
    for (size_t at = 0; at < count; at++) {
        const isms_text name = params[at].name;
        const isms_value *value = &params[at].value;
        if (name.len == 8 && memcmp(name.data, "greeting", 8) == 0 && value->kind == ISMS_TEXT)
            snprintf(hello->greeting, sizeof hello->greeting, "%.*s", (int)value->as.text.len, value->as.text.data);
    }
    return isms_log(call, ISMS_LOG_INFO, text("ready"));
}

/* Once per call. A result other than ISMS_OK is an error; isms_fail says why. */
static isms_result hello_execute(void *doee, isms_call *call) {
    struct hello *hello = doee;
    const isms_pair header = {text("content-type"), text("text/plain; charset=utf-8")};
    char line[128];
    int len = snprintf(line, sizeof line, "%s, world\n", hello->greeting);
    isms_result result = isms_respond_begin(call, 200, &header, 1, (uint64_t)len);
    return result == ISMS_OK ? isms_respond_write(call, line, (size_t)len) : result;
}

/* Once per worker, after the last call. */
static void hello_terminate(void *doee, isms_call *call) {
    (void)doee;
    (void)call;
}

/* What the platform calls. */
static const isms_doee_table hello_table = {
    sizeof(isms_doee_table), ISMS_DOEE_ABI, 0, hello_create, hello_destroy,
    hello_initialize, hello_execute, hello_terminate,
};

const isms_doee_table *isms_doee_v1(void) { return &hello_table; }

/* Where to go from here, all of it explained in isms_doee.h:
 *   - what triggered the call:  isms_request_get
 *   - its body:                 isms_body when it is small, isms_body_read piece by piece
 *   - a database:               isms_sql, several statements that take effect together or not at all,
 *                               then isms_sql_rows
 */

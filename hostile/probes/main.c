/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c: the Doee around the probes. Its parameter `probe` says which one a call runs.
 */
#include "probe.h"

#include <stdlib.h>

/* Enough for the steps of the longest probe; what does not fit is cut, and then no answer as expected. */
static char answer[16384];
static size_t answered;

void record_as(const char *step, const char *outcome) {
    size_t room = sizeof answer - answered;
    int len = snprintf(answer + answered, room, "%s\t%s\n", step, outcome);
    answered += len < 0 ? 0 : (size_t)len < room ? (size_t)len : room - 1;
}

void record(const char *step, long result) {
    record_as(step, result >= 0 ? "ok" : strerrorname_np(errno));
}

static const isms_param *parameters;
static size_t parameter_count;

static const isms_value *parameter(const char *name) {
    for (size_t at = 0; at < parameter_count; at++)
        if (parameters[at].name.len == strlen(name) && !memcmp(parameters[at].name.data, name, strlen(name)))
            return &parameters[at].value;
    return NULL;
}

static const char *text_of(const char *name) {
    static char texts[16][256];
    static size_t next;
    const isms_value *value = parameter(name);
    if (!value || value->kind != ISMS_TEXT) return "";
    char *text = texts[next++ % 16];
    snprintf(text, sizeof texts[0], "%.*s", (int)value->as.text.len, value->as.text.data);
    return text;
}

static long number_of(const char *name) {
    const isms_value *value = parameter(name);
    return value && value->kind == ISMS_INTEGER ? (long)value->as.integer : 0;
}

static const struct probe *find(const char *name) {
    const struct probe *tables[] = {file_probes,   process_probes,  network_probes, namespace_probes,
                                    kernel_probes, resource_probes, worker_probes};
    for (size_t table = 0; table < sizeof tables / sizeof *tables; table++)
        for (const struct probe *probe = tables[table]; probe->name; probe++)
            if (!strcmp(probe->name, name)) return probe;
    return NULL;
}

static void *create(isms_call *call) {
    static int doee;
    (void)call;
    return &doee;
}

static void destroy(void *doee) { (void)doee; }

static isms_result initialize(void *doee, isms_call *call) {
    (void)doee;
    (void)call;
    return ISMS_OK;
}

static isms_result execute(void *doee, isms_call *call) {
    (void)doee;
    struct run run = {call, text_of, number_of};
    isms_result result = isms_params(call, &parameters, &parameter_count);
    if (result != ISMS_OK) return result;
    const struct probe *probe = find(text_of("probe"));
    if (!probe) return ISMS_NOT_FOUND;
    answered = 0;
    probe->attack(&run);
    result = isms_respond_begin(call, 200, NULL, 0, answered);
    return result == ISMS_OK ? isms_respond_write(call, answer, answered) : result;
}

static void terminate(void *doee, isms_call *call) {
    (void)doee;
    (void)call;
}

const isms_doee_table *isms_doee_v1(void) {
    static const isms_doee_table table = {
        sizeof(isms_doee_table), ISMS_DOEE_ABI, 0, create, destroy, initialize, execute, terminate};
    return &table;
}

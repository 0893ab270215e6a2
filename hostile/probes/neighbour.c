/* SPDX-License-Identifier: Apache-2.0
 *
 * neighbour.c: a Doee of another project that has something to hide, and must be served whatever the probes do.
 */
#include <stdio.h>
#include <string.h>

#include <isms_doee.h>

static char secret[128];

static void *create(isms_call *call) {
    (void)call;
    return secret;
}

static void destroy(void *doee) { (void)doee; }

static isms_result initialize(void *doee, isms_call *call) {
    const isms_param *params;
    size_t count;
    isms_result result = isms_params(call, &params, &count);
    (void)doee;
    if (result != ISMS_OK || count != 1 || params[0].value.kind != ISMS_TEXT) return ISMS_FAILED;
    snprintf(secret, sizeof secret, "%.*s", (int)params[0].value.as.text.len, params[0].value.as.text.data);
    FILE *file = fopen("/tmp/neighbour", "w");
    if (!file) return ISMS_FAILED;
    fputs(secret, file);
    return fclose(file) ? ISMS_FAILED : ISMS_OK;
}

/* Answers only while nothing of its own was touched. */
static isms_result execute(void *doee, isms_call *call) {
    char kept[128] = "";
    (void)doee;
    FILE *file = fopen("/tmp/neighbour", "r");
    if (!file || !fgets(kept, sizeof kept, file) || strcmp(kept, secret)) return ISMS_FAILED;
    fclose(file);
    isms_result result = isms_respond_begin(call, 200, NULL, 0, 4);
    return result == ISMS_OK ? isms_respond_write(call, "fine", 4) : result;
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

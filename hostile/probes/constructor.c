/* SPDX-License-Identifier: Apache-2.0
 *
 * constructor.c: attacks while it is loaded, before the platform has called anything of it.
 * With SPIN it never lets its loader go on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <isms_doee.h>

static char answer[1024];

static void record(const char *step, long result) {
    size_t len = strlen(answer);
    snprintf(answer + len, sizeof answer - len, "%s\t%s\n", step, result >= 0 ? "ok" : strerrorname_np(errno));
}

#define STEP(expression) record(#expression, (long)(expression))

__attribute__((constructor)) static void attack(void) {
#ifdef SPIN
    for (;;) pause();
#else
    char *none[] = {NULL};
    STEP(open("/etc/passwd", O_RDONLY));
    STEP(open("/planted", O_CREAT | O_WRONLY, 0600));
    STEP(socket(AF_INET, SOCK_STREAM, 0));
    STEP(socket(AF_UNIX, SOCK_STREAM, 0));
    pid_t child = fork();
    if (child == 0) _exit(0);
    record("fork()", child);
    /* A directory: what gets past the filter is told so by another errno, and nothing else has happened. */
    long result = execve("/", none, none);
    record("execve of a directory", errno == EACCES ? 0 : result);
    STEP(syscall(SYS_bpf, 0, 0, 0));
#endif
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
    isms_result result = isms_respond_begin(call, 200, NULL, 0, strlen(answer));
    return result == ISMS_OK ? isms_respond_write(call, answer, strlen(answer)) : result;
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

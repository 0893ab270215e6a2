/* SPDX-License-Identifier: Apache-2.0
 *
 * probe.h: what an attack is made of.
 *
 * A probe is a function that takes steps. Each step is one thing that must not work; what came of it is a
 * line of the answer: the step as it is written here, a tab, and `ok` or the name of the errno. A probe never
 * decides whether that is good or bad; probes.toml says what is expected, and the suite judges.
 */
#ifndef PROBE_H
#define PROBE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <isms_doee.h>

/* A run of a probe. */
struct run {
    isms_call *call;
    const char *(*text)(const char *name); /* a parameter of the manifest; "" when it is not given */
    long (*number)(const char *name);      /* likewise; 0 when it is not given */
};

struct probe {
    const char *name;
    void (*attack)(struct run *run);
};

/* Records a step: `result` is negative when it was refused, as errno says. */
void record(const char *step, long result);
/* Records a step whose outcome is not an errno. */
void record_as(const char *step, const char *outcome);

#define STEP(expression) \
    do { \
        errno = 0; \
        record(#expression, (long)(expression)); \
    } while (0)

/* A step that was taken before, whose result is needed for the next one. */
#define STEP_WAS(step, result) record(step, (long)(result))

/* A step that gets past the refusal with `reached`: the kernel took the request and only then found it wrong. */
#define STEP_REACHING(reached, expression) \
    do { \
        errno = 0; \
        long result_ = (long)(expression); \
        record(#expression, result_ < 0 && errno == (reached) ? 0 : result_); \
    } while (0)

/* A system call that the C library may not have a name for. */
#define CALL(...) syscall(__VA_ARGS__)

/* Tables of probes, by file; each ends with a name of NULL. */
extern const struct probe file_probes[], process_probes[], network_probes[], namespace_probes[], kernel_probes[],
    resource_probes[], worker_probes[];

#endif

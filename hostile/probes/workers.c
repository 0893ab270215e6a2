/* SPDX-License-Identifier: Apache-2.0
 *
 * workers.c: worker against worker, and against what it was lent.
 */
#include "probe.h"

#include <stdlib.h>
#include <sys/sysinfo.h>
#include <time.h>

/* Beyond 0 to 4 nothing is open, but what the executor opened for itself. */
static void use_surplus_descriptors(struct run *run) {
    (void)run;
    long open_ones = 0;
    for (int fd = 5; fd < 1024; fd++) open_ones += fcntl(fd, F_GETFD) >= 0;
    errno = EBADF;
    record("a descriptor above 4", open_ones ? 0 : -1);
}

/* By its link in /proc a descriptor can be opened anew, with other rights. */
static void reopen_descriptors(struct run *run) {
    (void)run;
    STEP(open("/proc/self/fd/3", O_RDWR));
    STEP(open("/proc/self/fd/4", O_RDWR));
    STEP(open("/proc/self/fd/1", O_RDONLY | O_NONBLOCK));
    STEP(open("/proc/1/fd/0", O_RDWR));
}

/* The page on which executor and Doer agree about calls is shared memory, and here it lies. */
static void lie_on_status_page(struct run *run) {
    (void)run;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long first, last;
        char rights[8];
        if (sscanf(line, "%lx-%lx %7s", &first, &last, rights) == 3 && !strcmp(rights, "rw-s"))
            for (int round = 0; round < 1000; round++) memset((void *)first, round, last - first);
    }
    if (maps) fclose(maps);
    record_as("overwrite the status page", "done");
}

static void use_foreign_database(struct run *run) {
    isms_statement statement = {{"SELECT 1", 8}, NULL, 0, ISMS_ROWS_ANY};
    isms_handle handle = 0;
    const char *const names[] = {"data", "neighbour/data", "../neighbour/data", "sqlite_master"};
    for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
        isms_result result = isms_sql(run->call, (isms_text){names[at], strlen(names[at])}, &statement, 1, &handle);
        const char *outcome = result == ISMS_OK          ? "ok"
                              : result == ISMS_FORBIDDEN ? "FORBIDDEN"
                              : result == ISMS_INVALID   ? "INVALID"
                                                         : "other";
        record_as(names[at], outcome);
    }
}

static long read_start(const char *path) {
    char byte;
    int file = open(path, O_RDONLY);
    if (file < 0) return -1;
    long len = read(file, &byte, 1);
    close(file);
    return len;
}

/* How busy everybody else is tells when they are called. */
static void watch_neighbours_load(struct run *run) {
    struct sysinfo info;
    clockid_t clock = (clockid_t)((~(unsigned)run->number("neighbour") << 3) | 2);
    struct timespec time;
    STEP(sysinfo(&info));
    STEP(read_start("/proc/loadavg"));
    STEP(read_start("/proc/stat"));
    STEP(read_start("/proc/meminfo"));
    STEP(read_start("/proc/pressure/cpu"));
    STEP(read_start("/proc/interrupts"));
    STEP(read_start("/proc/schedstat"));
    STEP(CALL(SYS_clock_gettime, clock, &time));
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/stat", run->number("neighbour"));
    STEP(read_start(path));
}

static void watch_neighbours_memory(struct run *run) {
    char path[64];
    const char *const names[] = {"mem", "maps", "pagemap", "environ", "syscall", "io"};
    for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
        snprintf(path, sizeof path, "/proc/%ld/%s", run->number("neighbour"), names[at]);
        STEP(open(path, O_RDONLY));
    }
    STEP(read_start("/proc/self/pagemap"));
}

const struct probe worker_probes[] = {
    {"use-surplus-descriptors", use_surplus_descriptors},
    {"reopen-descriptors", reopen_descriptors},
    {"lie-on-status-page", lie_on_status_page},
    {"use-foreign-database", use_foreign_database},
    {"watch-neighbours-load", watch_neighbours_load},
    {"watch-neighbours-memory", watch_neighbours_memory},
    {NULL, NULL},
};

/* SPDX-License-Identifier: Apache-2.0
 *
 * resources.c: more than its share of everything, and not stopping.
 *
 * A step that fills something counts how much it got; `ok` means that it got all that it wanted, which is more
 * than any worker may have.
 */
#include "probe.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

static long fork_many(void) {
    for (int count = 0; count < 300; count++) {
        pid_t child = fork();
        if (child < 0) return -1;
        if (child == 0)
            for (;;) pause();
    }
    return 0;
}

static void fork_bomb(struct run *run) {
    (void)run;
    STEP(fork_many());
}

static void *wait_for_ever(void *nothing) {
    for (;;) pause();
    return nothing;
}

static long start_threads(void *(*body)(void *), int count) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    for (int at = 0; at < count; at++) {
        pthread_t thread;
        int error = pthread_create(&thread, &small, body, NULL);
        if (error) {
            errno = error;
            return -1;
        }
    }
    return 0;
}

static void thread_bomb(struct run *run) {
    (void)run;
    STEP(start_threads(wait_for_ever, 300));
}

/* Four times the memory that its manifest grants; it does not live to tell, unless it is told no. */
static void eat_memory(struct run *run) {
    const size_t piece = 1 << 20;
    for (long got = 0; got < 4 * run->number("memory_mb"); got++) {
        char *memory = mmap(NULL, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return record("mmap and touch four times its memory", -1);
        memset(memory, 1, piece);
    }
    record("mmap and touch four times its memory", 0);
}

static long fill(const char *path, long megabytes) {
    static char piece[1 << 20];
    int file = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    long result = file < 0 ? -1 : 0;
    for (long at = 0; result >= 0 && at < megabytes; at++) result = write(file, piece, sizeof piece) < 0 ? -1 : 0;
    int error = errno;
    if (file >= 0) close(file);
    unlink(path);
    errno = error;
    return result;
}

static void fill_tmp(struct run *run) { STEP(fill("/tmp/full", run->number("memory_mb"))); }

static void eat_inodes(struct run *run) {
    (void)run;
    char path[32];
    long result = 0, at = 0;
    for (; result >= 0 && at < 20000; at++) {
        snprintf(path, sizeof path, "/tmp/i%ld", at);
        result = mkdir(path, 0700);
    }
    record("20000 directories in /tmp", result);
}

static void make_huge_file(struct run *run) {
    (void)run;
    signal(SIGXFSZ, SIG_IGN);
    int file = open("/tmp/huge", O_CREAT | O_RDWR | O_TRUNC, 0600);
    STEP(ftruncate(file, 1L << 40));
    STEP(fallocate(file, 0, 0, 1L << 36));
    close(file);
    unlink("/tmp/huge");
}

static void eat_descriptors(struct run *run) {
    (void)run;
    int fd = 0;
    for (int at = 0; fd >= 0 && at < 500; at++) fd = dup(0);
    record("500 descriptors", fd);
}

/* Kernel memory behind pipes: each may grow to a mebibyte. */
static void eat_pipes(struct run *run) {
    (void)run;
    static char piece[65536];
    int ends[2];
    long result = 0;
    for (int at = 0; result >= 0 && at < 100; at++) {
        result = pipe2(ends, O_NONBLOCK);
        if (result >= 0) result = fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
        while (result >= 0 && write(ends[1], piece, sizeof piece) > 0) {}
    }
    record("100 pipes of 1 MiB each", result);
}

static void *spin(void *nothing) {
    for (volatile unsigned long count = 0;; count++) {}
    return nothing;
}

static void spin_past_deadline(struct run *run) {
    (void)run;
    spin(NULL);
}

static void spin_on_all_cores(struct run *run) {
    (void)run;
    start_threads(spin, 16);
    spin(NULL);
}

static void sleep_for_ever(struct run *run) {
    (void)run;
    for (;;) pause();
}

static void ignore_signals(struct run *run) {
    (void)run;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (int number = 1; number < 32; number++) signal(number, SIG_IGN);
    for (;;) pause();
}

static void flood_log(struct run *run) {
    static char line[1024];
    memset(line, 'x', sizeof line);
    for (int round = 0; round < 20000; round++) isms_log(run->call, ISMS_LOG_ERROR, (isms_text){line, sizeof line});
    record_as("isms_log of 20 MB", "cut");
}

/* The pipe behind descriptors 1 and 2 is read by the host. */
static void flood_output(struct run *run) {
    (void)run;
    static char line[65536];
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    /* A reader that is slower than the writer may not hold it up for ever; the deadline would end it. */
    for (int round = 0; round < 300; round++)
        if (write(1 + round % 2, line, sizeof line) < 0) break;
    record_as("20 MB on stdout and stderr", "cut");
}

static void dump_core(struct run *run) {
    (void)run;
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_CORE, &all);
    syscall(SYS_prctl, 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0);
    if (chdir("/tmp")) record_as("chdir", "failed");
    signal(SIGABRT, SIG_DFL);
    abort();
}

static long (*volatile again)(long depth);

static long deeper(long depth) {
    volatile char room[4096];
    room[0] = (char)depth;
    return again(depth + 1) + room[0];
}

static void overflow_stack(struct run *run) {
    (void)run;
    again = deeper;
    record("endless recursion", deeper(0));
}

static void lock_shared_file(struct run *run) {
    (void)run;
    int file = open("/proc/self/exe", O_RDONLY);
    STEP(CALL(SYS_flock, file, 6 /* LOCK_EX | LOCK_NB */));
    STEP(fcntl(file, F_SETLEASE, F_RDLCK));
    struct flock whole = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    STEP(fcntl(file, F_SETLK, &whole));
    STEP(fcntl(file, F_OFD_SETLK, &whole));
    close(file);
}

const struct probe resource_probes[] = {
    {"fork-bomb", fork_bomb},
    {"thread-bomb", thread_bomb},
    {"eat-memory", eat_memory},
    {"fill-tmp", fill_tmp},
    {"eat-inodes", eat_inodes},
    {"make-huge-file", make_huge_file},
    {"eat-descriptors", eat_descriptors},
    {"eat-pipes", eat_pipes},
    {"spin-past-deadline", spin_past_deadline},
    {"spin-on-all-cores", spin_on_all_cores},
    {"sleep-for-ever", sleep_for_ever},
    {"ignore-signals", ignore_signals},
    {"flood-log", flood_log},
    {"flood-output", flood_output},
    {"dump-core", dump_core},
    {"overflow-stack", overflow_stack},
    {"lock-shared-file", lock_shared_file},
    {NULL, NULL},
};

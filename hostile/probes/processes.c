/* SPDX-License-Identifier: Apache-2.0
 *
 * processes.c: other processes, seen, signalled, traced, slowed down.
 */
#include "probe.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

static void signal_host_process(struct run *run) {
    pid_t victim = (pid_t)run->number("victim");
    STEP(kill(victim, SIGTERM));
    STEP(CALL(SYS_tkill, victim, SIGTERM));
    STEP(CALL(SYS_tgkill, victim, victim, SIGTERM));
    STEP(kill(-victim, SIGTERM));
}

static void signal_everybody(struct run *run) {
    /* Where layers are missing a real one ends the machine that the probe runs on. */
    STEP(kill(-1, run->number("throwaway") ? SIGKILL : 0));
}

static void signal_platform(struct run *run) {
    int signal = run->number("throwaway") ? SIGKILL : 0;
    STEP(kill((pid_t)run->number("supervisor"), signal));
    STEP(kill((pid_t)run->number("doer"), signal));
    pid_t parent = getppid();
    if (parent > 0)
        STEP(kill(parent, signal));
}

static void signal_neighbour(struct run *run) {
    STEP(kill((pid_t)run->number("neighbour"), SIGKILL));
    STEP(CALL(SYS_tgkill, run->number("neighbour"), run->number("neighbour"), SIGSEGV));
}

static void signal_with_data(struct run *run) {
    pid_t victim = (pid_t)run->number("victim");
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_code = SI_QUEUE;
    STEP(CALL(SYS_rt_sigqueueinfo, victim, SIGTERM, &info));
    STEP(CALL(SYS_rt_tgsigqueueinfo, victim, victim, SIGTERM, &info));
}

static void signal_by_pidfd(struct run *run) {
    int pidfd = (int)CALL(SYS_pidfd_open, run->number("victim"), 0);
    STEP_WAS("pidfd_open", pidfd);
    STEP(CALL(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0));
    STEP(CALL(SYS_pidfd_getfd, pidfd, 0, 0));
}

/* A descriptor can be told whom to signal when something arrives. */
static void signal_by_descriptor(struct run *run) {
    pid_t victim = (pid_t)run->number("victim");
    int ends[2];
    if (pipe(ends)) return record_as("pipe", "failed");
    STEP(fcntl(ends[0], F_SETOWN, victim));
    STEP(fcntl(3, F_SETOWN, victim));
    struct f_owner_ex owner = {F_OWNER_PID, victim};
    STEP(fcntl(3, F_SETOWN_EX, &owner));
    STEP(fcntl(3, F_SETSIG, SIGKILL));
}

static void trace(struct run *run) {
    STEP(ptrace(PTRACE_ATTACH, run->number("victim"), 0, 0));
    STEP(ptrace(PTRACE_SEIZE, run->number("victim"), 0, 0));
    STEP(ptrace(PTRACE_ATTACH, run->number("neighbour"), 0, 0));
    STEP(ptrace(PTRACE_TRACEME, 0, 0, 0));
}

static void read_foreign_memory(struct run *run) {
    char bytes[16], path[64];
    struct iovec here = {bytes, sizeof bytes}, there = {bytes, sizeof bytes};
    pid_t victim = (pid_t)run->number("victim");
    STEP_REACHING(EFAULT, process_vm_readv(victim, &here, 1, &there, 1, 0));
    STEP_REACHING(EFAULT, process_vm_writev(victim, &here, 1, &there, 1, 0));
    const char *const names[] = {"mem", "environ", "maps", "cmdline", "stack"};
    for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
        snprintf(path, sizeof path, "/proc/%d/%s", victim, names[at]);
        STEP(open(path, O_RDONLY));
    }
}

static void take_processor(struct run *run) {
    struct sched_param first = {.sched_priority = 1};
    pid_t victim = (pid_t)run->number("victim");
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    STEP(sched_setscheduler(0, SCHED_FIFO, &first));
    STEP(setpriority(PRIO_PROCESS, 0, -20));
    STEP(setpriority(PRIO_PROCESS, (id_t)victim, 19));
    STEP(sched_setaffinity(victim, sizeof one, &one));
    STEP(CALL(SYS_ioprio_set, 1, victim, 0x6007));
    STEP(nice(-20));
}

static void raise_limits(struct run *run) {
    struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY}, one = {1, 1};
    STEP(setrlimit(RLIMIT_NOFILE, &none));
    STEP(setrlimit(RLIMIT_CORE, &none));
    STEP(CALL(SYS_prlimit64, 0, RLIMIT_NPROC, &none, NULL));
    STEP(CALL(SYS_prlimit64, run->number("victim"), RLIMIT_NOFILE, &one, NULL));
}

static void make_processes(struct run *run) {
    (void)run;
    pid_t child = fork();
    if (child == 0) pause();
    STEP_WAS("fork", child);
    child = vfork();
    if (child == 0) _exit(0);
    STEP_WAS("vfork", child);
    child = (pid_t)CALL(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0) pause();
    STEP_WAS("clone", child);
    uint64_t arguments[11] = {0};
    arguments[4] = SIGCHLD;
    child = (pid_t)CALL(SYS_clone3, arguments, sizeof arguments);
    if (child == 0) pause();
    STEP_WAS("clone3", child);
}

/* A Doee without its parent-death signal outlives a platform that is killed. */
static void outlive_platform(struct run *run) {
    (void)run;
    STEP(CALL(SYS_prctl, 1 /* PR_SET_PDEATHSIG */, 0, 0, 0, 0));
    STEP(CALL(SYS_prctl, 36 /* PR_SET_CHILD_SUBREAPER */, 1, 0, 0, 0));
    STEP(setsid());
}

static void become_dumpable(struct run *run) {
    (void)run;
    STEP(CALL(SYS_prctl, 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0));
    STEP(CALL(SYS_prctl, 0x59616d61 /* PR_SET_PTRACER */, -1L, 0, 0, 0));
}

static void list_processes(struct run *run) {
    (void)run;
    /* Its own number there need not be the one that it is told. */
    char own[32] = "";
    ssize_t len = readlink("/proc/self", own, sizeof own - 1);
    own[len > 0 ? len : 0] = 0;
    DIR *proc = opendir("/proc");
    long others = 0;
    for (struct dirent *entry; proc && (entry = readdir(proc));)
        others += atol(entry->d_name) > 0 && strcmp(entry->d_name, own);
    if (proc) closedir(proc);
    errno = ESRCH;
    record("another process in /proc", others ? 0 : -1);
}

const struct probe process_probes[] = {
    {"signal-host-process", signal_host_process},
    {"signal-everybody", signal_everybody},
    {"signal-platform", signal_platform},
    {"signal-neighbour", signal_neighbour},
    {"signal-with-data", signal_with_data},
    {"signal-by-pidfd", signal_by_pidfd},
    {"signal-by-descriptor", signal_by_descriptor},
    {"trace", trace},
    {"read-foreign-memory", read_foreign_memory},
    {"take-processor", take_processor},
    {"raise-limits", raise_limits},
    {"make-processes", make_processes},
    {"outlive-platform", outlive_platform},
    {"become-dumpable", become_dumpable},
    {"list-processes", list_processes},
    {NULL, NULL},
};

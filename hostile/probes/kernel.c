/* SPDX-License-Identifier: Apache-2.0
 *
 * kernel.c: parts of the kernel that nobody inside needs and that have had holes.
 */
#include "probe.h"

#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <mqueue.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>

static void load_bpf(struct run *run) {
    (void)run;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_ARRAY;
    attributes.key_size = attributes.value_size = 4;
    attributes.max_entries = 1;
    STEP(CALL(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes));
    STEP_REACHING(EFAULT, CALL(SYS_bpf, BPF_PROG_LOAD, NULL, sizeof attributes));
}

static void use_io_uring(struct run *run) {
    (void)run;
    char parameters[120] = {0};
    STEP(CALL(SYS_io_uring_setup, 8, parameters));
    STEP_REACHING(EBADF, CALL(SYS_io_uring_enter, -1, 1, 0, 0, NULL, 0));
    STEP_REACHING(EBADF, CALL(SYS_io_uring_register, -1, 0, NULL, 0));
    unsigned long context = 0;
    STEP(CALL(SYS_io_setup, 8, &context));
}

static void use_userfaultfd(struct run *run) {
    (void)run;
    STEP(CALL(SYS_userfaultfd, 0));
    STEP(CALL(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */));
}

static void watch_performance(struct run *run) {
    (void)run;
    struct perf_event_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.type = PERF_TYPE_SOFTWARE;
    attributes.size = sizeof attributes;
    attributes.config = PERF_COUNT_SW_CONTEXT_SWITCHES;
    STEP(CALL(SYS_perf_event_open, &attributes, 0, -1, -1, 0));
    STEP(CALL(SYS_perf_event_open, &attributes, -1, 0, -1, 0));
}

static void use_keyrings(struct run *run) {
    (void)run;
    STEP(CALL(SYS_add_key, "user", "hostile", "x", 1, -3));
    STEP(CALL(SYS_request_key, "user", "hostile", NULL, -3));
    STEP(CALL(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3, 1));
}

static void load_modules(struct run *run) {
    (void)run;
    STEP_REACHING(ENOEXEC, CALL(SYS_init_module, "hostile", 7, ""));
    STEP_REACHING(EBADF, CALL(SYS_finit_module, -1, "", 0));
    STEP_REACHING(ENOENT, CALL(SYS_delete_module, "hostile", 0));
}

static void restart_machine(struct run *run) {
    /* With a wrong magic number it does nothing; permission is looked at first. */
    unsigned magic = run->number("throwaway") ? 0xfee1dead : 1;
    STEP_REACHING(EINVAL, CALL(SYS_reboot, magic, 672274793, 0x1234567, NULL));
    STEP(CALL(SYS_kexec_load, 0, 0, NULL, 0));
    STEP_REACHING(EBADF, CALL(SYS_kexec_file_load, -1, -1, 1, "", 0));
}

static void press_sysrq(struct run *run) {
    int trigger = open("/proc/sysrq-trigger", O_WRONLY);
    STEP_WAS("/proc/sysrq-trigger", trigger);
    if (trigger >= 0 && run->number("throwaway"))
        STEP(write(trigger, "b", 1));
}

static long set_value(const char *path, const char *text, struct run *run) {
    int file = open(path, O_WRONLY);
    if (file < 0) return -1;
    long result = run->number("throwaway") ? write(file, text, strlen(text)) : 0;
    int error = errno;
    close(file);
    errno = error;
    return result;
}

static void change_kernel_settings(struct run *run) {
    STEP(set_value("/proc/sys/kernel/core_pattern", "|/tmp/program", run));
    STEP(set_value("/proc/sys/kernel/modprobe", "/tmp/program", run));
    STEP(set_value("/proc/sys/kernel/hostname", "hostile", run));
    STEP(set_value("/proc/sys/vm/overcommit_memory", "1", run));
    STEP(set_value("/proc/sys/fs/binfmt_misc/register", ":x:M::MZ::/tmp/program:", run));
}

static void touch_physical_memory(struct run *run) {
    (void)run;
    STEP(open("/dev/mem", O_RDWR));
    STEP(open("/dev/kmem", O_RDWR));
    STEP(open("/dev/port", O_RDWR));
#if defined(__x86_64__)
    STEP(iopl(3));
    STEP(ioperm(0x80, 1, 1));
#endif
}

static void type_for_others(struct run *run) {
    (void)run;
    char key = 'x';
    for (int fd = 0; fd < 5; fd++) {
        STEP(ioctl(fd, TIOCSTI, &key));
        STEP(ioctl(fd, 0x541c /* TIOCLINUX */, &key));
    }
}

#if defined(__x86_64__)
static void use_x32_calls(struct run *run) {
    (void)run;
    STEP_REACHING(ENOSYS, CALL(0x40000000L | SYS_getpid));
}

static void use_32_bit_calls(struct run *run) {
    (void)run;
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L /* getpid */) : "memory", "r8", "r9", "r10", "r11");
    record("getpid by int 0x80", result > 0 ? 0 : -1);
}

static void change_segments(struct run *run) {
    (void)run;
    char description[16] = {0};
    STEP(CALL(SYS_modify_ldt, 1, description, sizeof description));
    STEP(CALL(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, 0));
    STEP(CALL(SYS_arch_prctl, 0x1012 /* ARCH_CET_... or none */, 0));
}
#endif

static void use_unknown_calls(struct run *run) {
    (void)run;
    STEP(CALL(470));
    STEP(CALL(999));
    STEP(CALL(100000));
}

static void read_kernel_log(struct run *run) {
    (void)run;
    char text[64];
    STEP(klogctl(3, text, sizeof text));
    STEP(klogctl(10, NULL, 0));
    STEP(klogctl(8, NULL, 1));
}

static void set_clock(struct run *run) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    /* Tomorrow where nobody minds, now elsewhere. */
    now.tv_sec += run->number("throwaway") ? 86400 : 0;
    struct timeval day = {now.tv_sec, 0};
    STEP(clock_settime(CLOCK_REALTIME, &now));
    STEP(settimeofday(&day, NULL));
    struct timex change = {.modes = ADJ_TICK, .tick = 10000};
    STEP(adjtimex(&change));
}

static void change_personality(struct run *run) {
    (void)run;
    STEP(personality(ADDR_NO_RANDOMIZE));
    STEP(personality(READ_IMPLIES_EXEC));
}

static void change_filters(struct run *run) {
    (void)run;
    STEP_REACHING(EFAULT, CALL(SYS_seccomp, 1, 0, NULL));
    STEP_REACHING(EFAULT, CALL(SYS_prctl, 22 /* PR_SET_SECCOMP */, 2, NULL, 0, 0));
    STEP_REACHING(EINVAL, CALL(444 /* landlock_create_ruleset */, NULL, 0, 2));
}

static void watch_files(struct run *run) {
    (void)run;
    STEP(inotify_init1(0));
    STEP(fanotify_init(0, 0));
    int directory = open("/isms", O_RDONLY);
    /* A worker's root is shared with all others, so this would tell when they load something. */
    STEP(fcntl(directory, F_NOTIFY, DN_ACCESS | DN_MULTISHOT));
    close(directory);
}

static void use_system_v(struct run *run) {
    (void)run;
    STEP(shmget(0x15c5, 4096, IPC_CREAT | 0666));
    STEP(msgget(0x15c5, IPC_CREAT | 0666));
    STEP(semget(0x15c5, 1, IPC_CREAT | 0666));
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 8};
    STEP(CALL(SYS_mq_open, "hostile", O_CREAT | O_RDWR, 0666, &attributes));
}

static void move_foreign_pages(struct run *run) {
    unsigned long nodes = 1;
    STEP(CALL(SYS_migrate_pages, run->number("victim"), 8, &nodes, &nodes));
    STEP(CALL(SYS_move_pages, run->number("victim"), 0, NULL, NULL, NULL, 0));
    STEP(CALL(SYS_kcmp, run->number("victim"), run->number("victim"), 0, 0, 0));
    STEP_REACHING(EBADF, CALL(SYS_process_madvise, -1, NULL, 0, 20, 0));
}

static void use_secret_memory(struct run *run) {
    (void)run;
    STEP(CALL(447 /* memfd_secret */, 0));
    STEP(CALL(SYS_remap_file_pages, 0, 0, 0, 0, 0));
    STEP(CALL(SYS_mlock, &run, 1));
    STEP(CALL(SYS_mlockall, 1));
    STEP(CALL(SYS_mbind, 0, 0, 0, NULL, 0, 0));
}

const struct probe kernel_probes[] = {
    {"load-bpf", load_bpf},
    {"use-io-uring", use_io_uring},
    {"use-userfaultfd", use_userfaultfd},
    {"watch-performance", watch_performance},
    {"use-keyrings", use_keyrings},
    {"load-modules", load_modules},
    {"restart-machine", restart_machine},
    {"press-sysrq", press_sysrq},
    {"change-kernel-settings", change_kernel_settings},
    {"touch-physical-memory", touch_physical_memory},
    {"type-for-others", type_for_others},
#if defined(__x86_64__)
    {"use-x32-calls", use_x32_calls},
    {"use-32-bit-calls", use_32_bit_calls},
    {"change-segments", change_segments},
#endif
    {"use-unknown-calls", use_unknown_calls},
    {"read-kernel-log", read_kernel_log},
    {"set-clock", set_clock},
    {"change-personality", change_personality},
    {"change-filters", change_filters},
    {"watch-files", watch_files},
    {"use-system-v", use_system_v},
    {"move-foreign-pages", move_foreign_pages},
    {"use-secret-memory", use_secret_memory},
    {NULL, NULL},
};

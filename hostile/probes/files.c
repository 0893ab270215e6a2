/* SPDX-License-Identifier: Apache-2.0
 *
 * files.c: files of the host, of the platform and of others.
 */
#include "probe.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Shows what was read: a secret that appears in an answer is found by the suite. */
static long read_file(const char *path) {
    char text[256];
    int file = open(path, O_RDONLY);
    if (file < 0) return -1;
    ssize_t len = read(file, text, sizeof text - 1);
    close(file);
    if (len < 0) return -1;
    text[len] = 0;
    for (char *at = text; *at; at++)
        if (*at == '\n' || *at == '\t') *at = ' ';
    record_as(text, "ok");
    return 0;
}

static long write_file(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    if (file < 0) return -1;
    ssize_t len = write(file, text, strlen(text));
    int error = errno;
    close(file);
    errno = error;
    return len;
}

static void read_host_files(struct run *run) {
    (void)run;
    STEP(read_file("/etc/passwd"));
    STEP(read_file("/etc/shadow"));
    STEP(read_file("/etc/hostname"));
    STEP(open("/root", O_RDONLY | O_DIRECTORY));
    STEP(open("/home", O_RDONLY | O_DIRECTORY));
    STEP(open("/var", O_RDONLY | O_DIRECTORY));
}

static void read_planted_secret(struct run *run) { STEP(read_file(run->text("secret"))); }

static void write_planted_file(struct run *run) {
    STEP(write_file(run->text("planted"), "hostile"));
    STEP(truncate(run->text("planted"), 0));
    STEP(unlink(run->text("planted")));
    STEP(chmod(run->text("planted"), 0));
}

static void create_in_open_directory(struct run *run) {
    char path[300];
    snprintf(path, sizeof path, "%s/hostile", run->text("directory"));
    STEP(open(path, O_CREAT | O_WRONLY, 0666));
    STEP(mkdir(path, 0777));
}

static void read_platform_files(struct run *run) {
    const char *const names[] = {"admin.token", "resadmin", "dbriver", "doer", "kernel", "run", "format"};
    char path[300];
    for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
        snprintf(path, sizeof path, "%s/%s", run->text("data"), names[at]);
        STEP(open(path, O_RDONLY));
    }
    STEP(read_file(run->text("token")));
}

static void read_sibling_files(struct run *run) {
    const char *const links[] = {"root/tmp", "cwd", "root/isms", "fd/0", "exe"};
    char path[300];
    /* What a neighbour keeps in a /tmp of its own. */
    STEP(read_file("/tmp/neighbour"));
    for (size_t at = 0; at < sizeof links / sizeof *links; at++) {
        snprintf(path, sizeof path, "/proc/%ld/%s", run->number("neighbour"), links[at]);
        STEP(open(path, O_RDONLY));
    }
}

static void write_own_root(struct run *run) {
    (void)run;
    STEP(open("/hostile", O_CREAT | O_WRONLY, 0600));
    STEP(mkdir("/isms/hostile", 0700));
    STEP(open("/isms/doee-executor", O_WRONLY));
    STEP(unlink("/isms/doee-executor"));
    STEP(rename("/isms/doee-executor", "/isms/other"));
    STEP(chmod("/isms/doee-executor", 04777));
    STEP(open("/lib/x86_64-linux-gnu/libc.so.6", O_WRONLY));
    STEP(open("/proc/self/exe", O_WRONLY));
}

static void climb_out_by_dots(struct run *run) {
    char path[300];
    STEP(read_file("../../../../../../../../etc/passwd"));
    STEP(read_file("/proc/1/root/etc/passwd"));
    STEP(read_file("/proc/self/root/../../../etc/passwd"));
    STEP(read_file("/proc/self/cwd/../../../etc/passwd"));
    snprintf(path, sizeof path, "/proc/1/cwd/../../..%s", run->text("secret"));
    STEP(read_file(path));
}

static void climb_out_by_links(struct run *run) {
    STEP(symlink(run->text("secret"), "/tmp/link") == 0 ? read_file("/tmp/link") : -1);
    STEP(link(run->text("secret"), "/tmp/hard"));
    STEP(linkat(AT_FDCWD, "/proc/self/exe", AT_FDCWD, "/tmp/exe", AT_SYMLINK_FOLLOW));
}

static void climb_out_by_handle(struct run *run) {
    struct {
        struct file_handle head;
        unsigned char bytes[128];
    } handle = {.head = {.handle_bytes = 128}};
    int mount = 0;
    STEP(name_to_handle_at(AT_FDCWD, "/", &handle.head, &mount, 0));
    /* Inode 2 is the root of most file systems. */
    handle.head.handle_bytes = 8;
    handle.head.handle_type = 1;
    memcpy(handle.head.f_handle, "\2\0\0\0\0\0\0\0", 8);
    int root = open("/", O_RDONLY);
    STEP_REACHING(ESTALE, open_by_handle_at(root, &handle.head, O_RDONLY));
    close(root);
    (void)run;
}

static void climb_out_by_descriptor(struct run *run) {
    (void)run;
    /* Beyond 4 only those that were left open by mistake. */
    for (int fd = 0; fd < 64; fd++) {
        STEP(fchdir(fd));
        STEP(openat(fd, "../etc/passwd", O_RDONLY));
    }
}

static void write_own_proc(struct run *run) {
    (void)run;
    STEP(write_file("/proc/self/oom_score_adj", "-1000"));
    STEP(write_file("/proc/self/uid_map", "0 0 1"));
    STEP(write_file("/proc/self/setgroups", "allow"));
    STEP(write_file("/proc/self/coredump_filter", "0x7f"));
    STEP(write_file("/proc/self/comm", "isms"));
    STEP(write_file("/proc/self/attr/current", "unconfined"));
}

static void read_system_files(struct run *run) {
    (void)run;
    STEP(open("/sys", O_RDONLY));
    STEP(open("/sys/kernel/security", O_RDONLY));
    STEP(open("/sys/fs/cgroup", O_RDONLY));
    STEP(open("/proc/kcore", O_RDONLY));
    STEP(open("/proc/kallsyms", O_RDONLY));
    STEP(open("/proc/keys", O_RDONLY));
    STEP(open("/proc/cmdline", O_RDONLY));
    STEP(open("/proc/config.gz", O_RDONLY));
}

static void open_devices(struct run *run) {
    (void)run;
    STEP(open("/dev/null", O_RDWR));
    STEP(open("/dev/tty", O_RDWR));
    STEP(open("/dev/kvm", O_RDWR));
    STEP(open("/dev/fuse", O_RDWR));
    STEP(open("/dev/net/tun", O_RDWR));
    STEP(open("/dev/ttyS0", O_RDWR));
    STEP(open("/dev/kmsg", O_WRONLY));
}

/* A program of its own: the executor's bytes, put where it may write. */
static void run_own_program(struct run *run) {
    char *none[] = {NULL};
    char bytes[4096];
    int from = open("/proc/self/exe", O_RDONLY);
    int to = open("/tmp/program", O_CREAT | O_RDWR | O_TRUNC, 0700);
    for (ssize_t len; from >= 0 && to >= 0 && (len = read(from, bytes, sizeof bytes)) > 0;)
        if (write(to, bytes, (size_t)len) != len) break;
    fchmod(to, 04755);
    STEP(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, to, 0) == MAP_FAILED ? -1 : 0);
    close(to);
    /* With an argument that it does not take the executor ends at once; this process then is gone. */
    STEP(execve("/tmp/program", none, none));
    STEP(execve("/isms/doee-executor", none, none));
    STEP(CALL(SYS_execveat, AT_FDCWD, "/isms/doee-executor", none, none, 0));
    STEP(CALL(SYS_memfd_create, "program", 0));
    unlink("/tmp/program");
    (void)run;
}

const struct probe file_probes[] = {
    {"read-host-files", read_host_files},
    {"read-planted-secret", read_planted_secret},
    {"write-planted-file", write_planted_file},
    {"create-in-open-directory", create_in_open_directory},
    {"read-platform-files", read_platform_files},
    {"read-sibling-files", read_sibling_files},
    {"write-own-root", write_own_root},
    {"climb-out-by-dots", climb_out_by_dots},
    {"climb-out-by-links", climb_out_by_links},
    {"climb-out-by-handle", climb_out_by_handle},
    {"climb-out-by-descriptor", climb_out_by_descriptor},
    {"write-own-proc", write_own_proc},
    {"read-system-files", read_system_files},
    {"open-devices", open_devices},
    {"run-own-program", run_own_program},
    {NULL, NULL},
};

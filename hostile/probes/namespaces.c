/* SPDX-License-Identifier: Apache-2.0
 *
 * namespaces.c: namespaces, mounts, roots, device nodes, names, ids.
 */
#include "probe.h"

#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>

static void unshare_namespaces(struct run *run) {
    (void)run;
    STEP(unshare(CLONE_NEWUSER));
    STEP(unshare(CLONE_NEWNS));
    STEP(unshare(CLONE_NEWNET));
    STEP(unshare(CLONE_NEWPID));
    STEP(unshare(CLONE_NEWIPC));
    STEP(unshare(CLONE_NEWUTS));
    STEP(unshare(CLONE_NEWCGROUP));
}

static void enter_namespaces(struct run *run) {
    char path[64];
    const char *const names[] = {"mnt", "net", "user", "pid", "ipc", "uts"};
    for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
        snprintf(path, sizeof path, "/proc/%ld/ns/%s", run->number("victim"), names[at]);
        int foreign = open(path, O_RDONLY);
        STEP_WAS(path, foreign);
        STEP_REACHING(EBADF, setns(foreign, 0));
        if (foreign >= 0) close(foreign);
    }
    int own = open("/proc/self/ns/user", O_RDONLY);
    STEP_REACHING(EINVAL, setns(own, 0));
    if (own >= 0) close(own);
}

static void clone_namespaces(struct run *run) {
    (void)run;
    const unsigned long flags[] = {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID};
    for (size_t at = 0; at < sizeof flags / sizeof *flags; at++) {
        long child = CALL(SYS_clone, flags[at] | SIGCHLD, 0, 0, 0, 0);
        if (child == 0) _exit(0);
        STEP_WAS("clone", child);
    }
    uint64_t arguments[11] = {CLONE_NEWUSER | CLONE_NEWNS, 0, 0, 0, SIGCHLD};
    long child = CALL(SYS_clone3, arguments, sizeof arguments);
    if (child == 0) _exit(0);
    STEP_WAS("clone3", child);
}

static void mount_file_systems(struct run *run) {
    (void)run;
    STEP(mount("tmpfs", "/tmp", "tmpfs", 0, NULL));
    STEP(mount("proc", "/proc", "proc", 0, NULL));
    STEP(mount("sysfs", "/dev", "sysfs", 0, NULL));
    STEP(mount("/tmp", "/dev", NULL, MS_BIND, NULL));
    STEP(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
}

static void mount_by_new_calls(struct run *run) {
    (void)run;
    STEP(CALL(SYS_fsopen, "tmpfs", 0));
    STEP(CALL(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
    STEP_REACHING(EBADF, CALL(SYS_move_mount, -1, "", AT_FDCWD, "/tmp", 4));
    STEP_REACHING(EBADF, CALL(SYS_fsmount, -1, 0, 0));
    uint64_t attributes[4] = {0, 1, 0, 0};
    STEP(CALL(SYS_mount_setattr, AT_FDCWD, "/", 0, attributes, sizeof attributes));
}

static void unmount(struct run *run) {
    (void)run;
    STEP(umount2("/proc", MNT_DETACH));
    STEP(umount2("/tmp", MNT_DETACH));
    STEP(umount2("/", MNT_DETACH));
}

static void change_root(struct run *run) {
    (void)run;
    mkdir("/tmp/root", 0700);
    STEP(chroot("/tmp/root"));
    STEP(CALL(SYS_pivot_root, "/tmp", "/tmp/root"));
    rmdir("/tmp/root");
}

static void make_device_nodes(struct run *run) {
    (void)run;
    STEP(mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1)));
    STEP(mknod("/tmp/disk", S_IFBLK | 0600, makedev(254, 0)));
    STEP(mknodat(AT_FDCWD, "/tmp/null", S_IFCHR | 0600, makedev(1, 3)));
    STEP(mkfifo("/tmp/fifo", 0600));
}

static void rename_host(struct run *run) {
    (void)run;
    STEP(sethostname("hostile", 7));
    STEP(setdomainname("hostile", 7));
}

static void become_root(struct run *run) {
    (void)run;
    STEP(setuid(0));
    STEP(setgid(0));
    STEP(CALL(SYS_setresuid, 0, 0, 0));
    STEP(CALL(SYS_setresgid, 0, 0, 0));
    STEP(setgroups(0, NULL));
    /* It never fails; a second call tells whether the first one was heeded. */
    STEP(CALL(SYS_setfsuid, 0) < 0 || CALL(SYS_setfsuid, -1) != 0 ? (errno = EPERM, -1) : 0);
}

static void gain_capabilities(struct run *run) {
    (void)run;
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2] = {{~0U, ~0U, ~0U}, {~0U, ~0U, ~0U}};
    STEP(CALL(SYS_capset, &head, sets));
    STEP(CALL(SYS_prctl, 47 /* PR_CAP_AMBIENT */, 2, CAP_SYS_ADMIN, 0, 0));
    STEP(CALL(SYS_prctl, 28 /* PR_SET_SECUREBITS */, 0, 0, 0, 0));
    STEP(CALL(SYS_prctl, 8 /* PR_SET_KEEPCAPS */, 1, 0, 0, 0));
}

static void account_and_swap(struct run *run) {
    (void)run;
    STEP(acct(NULL));
    STEP_REACHING(ENOENT, swapon("/none", 0));
    STEP_REACHING(ENOENT, swapoff("/none"));
    STEP_REACHING(ENODEV, CALL(SYS_quotactl, 0x800002, "/none", 0, NULL));
    STEP(CALL(SYS_vhangup));
}

const struct probe namespace_probes[] = {
    {"unshare-namespaces", unshare_namespaces},
    {"enter-namespaces", enter_namespaces},
    {"clone-namespaces", clone_namespaces},
    {"mount-file-systems", mount_file_systems},
    {"mount-by-new-calls", mount_by_new_calls},
    {"unmount", unmount},
    {"change-root", change_root},
    {"make-device-nodes", make_device_nodes},
    {"rename-host", rename_host},
    {"become-root", become_root},
    {"gain-capabilities", gain_capabilities},
    {"account-and-swap", account_and_swap},
    {NULL, NULL},
};

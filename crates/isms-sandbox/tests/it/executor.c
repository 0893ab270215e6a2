/* Plays the executor: answers one-line commands on its control socket, each with one line. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int by_name(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void list(const char *path, char *answer, size_t room) {
    char *names[256];
    size_t count = 0;
    DIR *directory = opendir(path);
    if (!directory) {
        snprintf(answer, room, "%s", strerrorname_np(errno));
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory)) && count < 256;)
        if (entry->d_name[0] != '.')
            names[count++] = strdup(entry->d_name);
    closedir(directory);
    qsort(names, count, sizeof *names, by_name);
    answer[0] = 0;
    for (size_t i = 0; i < count; i++)
        snprintf(answer + strlen(answer), room - strlen(answer), "%s%s", i ? " " : "", names[i]);
}

static void descriptors(char *answer, size_t room) {
    answer[0] = 0;
    for (int fd = 0; fd < 256; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            snprintf(answer + strlen(answer), room - strlen(answer), "%s%d", fd ? " " : "", fd);
}

static void *stay(void *unused) {
    for (;;)
        pause();
    return unused;
}

static int threads(int most) {
    int made = 0;
    pthread_t thread;
    while (made < most && pthread_create(&thread, NULL, stay, NULL) == 0)
        made++;
    return made;
}

static int forks(int most) {
    int made = 0;
    for (; made < most; made++) {
        pid_t pid = fork();
        if (pid < 0)
            break;
        if (pid == 0)
            stay(NULL);
    }
    return made;
}

static const char *outcome(long result) {
    return result < 0 ? strerrorname_np(errno) : "ok";
}

static const char *load(int library) {
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", library);
    return dlopen(path, RTLD_NOW) ? "ok" : dlerror();
}

static const char *eat(size_t mebibytes) {
    char *memory = mmap(NULL, mebibytes << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return strerrorname_np(errno);
    memset(memory, 1, mebibytes << 20);
    return "ok";
}

static const char *fill(const char *path) {
    static char block[65536];
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    if (fd < 0)
        return strerrorname_np(errno);
    while (write(fd, block, sizeof block) > 0)
        ;
    const char *result = strerrorname_np(errno);
    unlink(path);
    close(fd);
    return result;
}

static const char *put(const char *path) {
    int fd = open(path, O_WRONLY | O_NOCTTY);
    return fd < 0 || write(fd, "x", 1) < 0 ? strerrorname_np(errno) : "ok";
}

static void show(const char *path, char *answer, size_t room) {
    int fd = open(path, O_RDONLY);
    ssize_t len = fd < 0 ? -1 : read(fd, answer, room - 1);
    if (len < 0)
        snprintf(answer, room, "%s", strerrorname_np(errno));
    else
        answer[len] = 0;
    if (fd >= 0)
        close(fd);
}

static const char *control_device(char *argument) {
    char room[128];
    unsigned long request = strtoul(argument, &argument, 0);
    int fd = open(argument + 1, O_RDWR | O_NOCTTY | O_NONBLOCK);
    return fd < 0 ? strerrorname_np(errno) : ioctl(fd, request, room) < 0 ? strerrorname_np(errno) : "ok";
}

static const char *reach(int port, int (*use)(int, const struct sockaddr *, socklen_t)) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd < 0 || use(fd, (struct sockaddr *)&address, sizeof address) < 0 ? strerrorname_np(errno) : "ok";
}

static const char *run(char *path) {
    char *arguments[] = {path, "-c", "exit 3", NULL};
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        execv(path, arguments);
        _exit(errno);
    }
    return pid < 0 || waitpid(pid, &status, 0) < 0 ? strerrorname_np(errno)
           : WEXITSTATUS(status) == 3             ? "ok"
                                                  : strerrorname_np(WEXITSTATUS(status));
}

static void answer_to(char *command, int library, char *answer, size_t room) {
    char *argument = strchr(command, ' ');
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9)};
    if (argument)
        *argument++ = 0;
#define IS(name) (strcmp(command, name) == 0)
#define SAY(...) snprintf(answer, room, __VA_ARGS__)
    if (IS("list"))
        list(argument, answer, room);
    else if (IS("descriptors"))
        descriptors(answer, room);
    else if (IS("identity"))
        SAY("pid %d uid %d gid %d session %d groups %d environment %s", getpid(), getuid(), getgid(), getsid(0),
            getgroups(0, NULL), environ[0] ? environ[0] : "empty");
    else if (IS("environment")) {
        answer[0] = 0;
        for (char **each = environ; *each; each++)
            snprintf(answer + strlen(answer), room - strlen(answer), "%s ", *each);
    } else if (IS("status")) {
        char text[4096] = {0};
        int fd = open("/proc/self/status", O_RDONLY);
        ssize_t len = read(fd, text, sizeof text - 1);
        close(fd);
        char *line = len > 0 ? strstr(text, argument) : NULL;
        SAY("%.*s", line ? (int)strcspn(line, "\n") : 0, line ? line : "");
    } else if (IS("read"))
        SAY("%s", outcome(open(argument, O_RDONLY)));
    else if (IS("create"))
        SAY("%s", outcome(open(argument, O_CREAT | O_WRONLY, 0600)));
    else if (IS("write"))
        SAY("%s", outcome(open(argument, O_WRONLY)));
    else if (IS("put"))
        SAY("%s", put(argument));
    else if (IS("show"))
        show(argument, answer, room);
    else if (IS("ioctl"))
        SAY("%s", control_device(argument));
    else if (IS("reach"))
        SAY("%s", reach(atoi(argument), connect));
    else if (IS("serve"))
        SAY("%s", reach(atoi(argument), bind));
    else if (IS("fill"))
        SAY("%s", fill(argument));
    else if (IS("socket"))
        SAY("%s", outcome(socket(atoi(argument), SOCK_STREAM, 0)));
    else if (IS("connect"))
        SAY("%s", outcome(connect(4, (struct sockaddr *)&address, sizeof address)));
    else if (IS("kill"))
        SAY("%s", outcome(kill(atoi(argument), 0)));
    else if (IS("call"))
        SAY("%s", outcome(syscall(atol(argument), 0, 0, 0, 0, 0, 0)));
    else if (IS("clear-death-signal"))
        SAY("%s", outcome(prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)));
    else if (IS("core-limit")) {
        struct rlimit limit = {0};
        getrlimit(RLIMIT_CORE, &limit);
        SAY("%lu %lu", (unsigned long)limit.rlim_cur, (unsigned long)limit.rlim_max);
    } else if (IS("set-core-limit")) {
        struct rlimit limit = {0};
        SAY("%s", outcome(setrlimit(RLIMIT_CORE, &limit)));
    } else if (IS("threads"))
        SAY("%d", threads(atoi(argument)));
    else if (IS("forks"))
        SAY("%d", forks(atoi(argument)));
    else if (IS("eat"))
        SAY("%s", eat(atol(argument)));
    else if (IS("run"))
        SAY("%s", run(argument));
    else if (IS("load"))
        SAY("%s", load(library));
    else if (IS("print"))
        SAY("%s", outcome(printf("%s\n", argument) + fflush(stdout)));
    else if (IS("exit"))
        exit(atoi(argument));
    else if (IS("crash"))
        raise(SIGSEGV), *(volatile int *)0 = 0;
    else
        SAY("unknown command");
}

int main(void) {
    char command[512], answer[2048], control[64];
    send(3, "up", 2, MSG_NOSIGNAL);
    for (;;) {
        struct iovec slice = {command, sizeof command - 1};
        struct msghdr message = {.msg_iov = &slice, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        ssize_t len = recvmsg(3, &message, 0);
        if (len <= 0)
            return 0;
        command[len] = 0;
        int library = -1;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (header)
            memcpy(&library, CMSG_DATA(header), sizeof library);
        answer_to(command, library, answer, sizeof answer);
        send(3, answer, strlen(answer), MSG_NOSIGNAL);
    }
}

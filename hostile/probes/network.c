/* SPDX-License-Identifier: Apache-2.0
 *
 * network.c: the host's loopback, other workers, sockets of all kinds, and the two that are inherited.
 */
#include "probe.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Connects and says something, so that a listener has seen it. */
static long reach(int family, int kind, const struct sockaddr *address, socklen_t len) {
    int end = socket(family, kind, 0);
    if (end < 0) return -1;
    long result = connect(end, address, len);
    if (result == 0) result = write(end, "hostile", 7);
    int error = errno;
    close(end);
    errno = error;
    return result;
}

static long reach_v4(const char *host, long port, int kind) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    return reach(AF_INET, kind, (const struct sockaddr *)&address, sizeof address);
}

static long reach_unix(const char *name, size_t len, int kind) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, len < sizeof address.sun_path ? len : sizeof address.sun_path);
    return reach(AF_UNIX, kind, (const struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
}

static void connect_to_loopback(struct run *run) {
    STEP(reach_v4("127.0.0.1", run->number("port"), SOCK_STREAM));
    STEP(reach_v4("0.0.0.0", run->number("port"), SOCK_STREAM));
}

static void connect_to_management(struct run *run) {
    STEP(reach_v4("127.0.0.1", run->number("gate"), SOCK_STREAM));
    STEP(reach_v4("127.0.0.1", run->number("http"), SOCK_STREAM));
}

static void send_datagram(struct run *run) { STEP(reach_v4("127.0.0.1", run->number("udp_port"), SOCK_DGRAM)); }

static void connect_by_ipv6(struct run *run) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)run->number("port6"))};
    address.sin6_addr = in6addr_loopback;
    STEP(reach(AF_INET6, SOCK_STREAM, (const struct sockaddr *)&address, sizeof address));
}

/* The address exists only where the suite has made a machine outside that has it; elsewhere nothing may be sent to it
 * even by mistake. */
static void connect_to_metadata(struct run *run) {
    if (run->number("throwaway"))
        STEP(reach_v4("169.254.169.254", 80, SOCK_STREAM));
    else
        STEP(socket(AF_INET, SOCK_STREAM, 0));
}

static void connect_to_unix_socket(struct run *run) {
    const char *path = run->text("socket");
    STEP(reach_unix(path, strlen(path) + 1, SOCK_STREAM));
}

static void connect_to_abstract_socket(struct run *run) {
    char name[128] = {0};
    int len = snprintf(name + 1, sizeof name - 1, "%s", run->text("abstract"));
    STEP(reach_unix(name, (size_t)len + 1, SOCK_STREAM));
}

static void make_raw_socket(struct run *run) {
    (void)run;
    STEP(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    STEP(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    STEP(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
}

static void make_packet_socket(struct run *run) {
    (void)run;
    STEP(socket(AF_PACKET, SOCK_RAW, htons(3)));
    STEP(socket(AF_PACKET, SOCK_DGRAM, htons(3)));
}

static void make_netlink_socket(struct run *run) {
    (void)run;
    STEP(socket(AF_NETLINK, SOCK_RAW, 0));
    STEP(socket(AF_NETLINK, SOCK_DGRAM, 15));
    STEP(socket(AF_NETLINK, SOCK_RAW, 9));
}

static void make_exotic_socket(struct run *run) {
    (void)run;
    STEP_REACHING(EAFNOSUPPORT, socket(AF_VSOCK, SOCK_STREAM, 0));
    STEP_REACHING(EAFNOSUPPORT, socket(AF_ALG, SOCK_SEQPACKET, 0));
    STEP_REACHING(EAFNOSUPPORT, socket(AF_BLUETOOTH, SOCK_RAW, 0));
    STEP_REACHING(EAFNOSUPPORT, socket(44 /* AF_XDP */, SOCK_RAW, 0));
    STEP_REACHING(EAFNOSUPPORT, socket(AF_TIPC, SOCK_STREAM, 0));
}

static void make_socket_pair(struct run *run) {
    (void)run;
    int ends[2];
    STEP(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    STEP(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
}

static void listen_on_inherited(struct run *run) {
    (void)run;
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0hostile"};
    for (int fd = 3; fd < 5; fd++) {
        STEP(bind(fd, (const struct sockaddr *)&address, sizeof address));
        STEP(listen(fd, 16));
        STEP(accept(fd, NULL, NULL));
        STEP(connect(fd, (const struct sockaddr *)&address, sizeof address));
    }
}

/* The two inherited sockets have one peer; a message cannot name another. */
static void redirect_inherited(struct run *run) {
    char name[128] = {0};
    int len = snprintf(name + 1, sizeof name - 1, "%s", run->text("abstract"));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, sizeof address.sun_path);
    socklen_t address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
    STEP(sendto(4, "hostile", 0, MSG_NOSIGNAL, (const struct sockaddr *)&address, address_len));
    STEP(setsockopt(4, SOL_SOCKET, SO_SNDBUFFORCE, &(int){1 << 30}, sizeof(int)));
    STEP(setsockopt(4, SOL_SOCKET, SO_SNDBUF, &(int){1 << 30}, sizeof(int)));
    STEP(setsockopt(4, SOL_SOCKET, SO_ATTACH_FILTER, NULL, 0));
}

static void configure_network(struct run *run) {
    (void)run;
    char request[64] = "lo";
    for (int fd = 3; fd < 5; fd++) {
        STEP(ioctl(fd, 0x8914 /* SIOCSIFFLAGS */, request));
        STEP(ioctl(fd, 0x8913 /* SIOCGIFFLAGS */, request));
        STEP(ioctl(fd, 0x8905 /* SIOCATMARK */, request));
    }
}

/* Descriptors that a peer has to receive can fill its table. */
static void flood_with_descriptors(struct run *run) {
    (void)run;
    int sent[64];
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof sent)];
    } control;
    for (size_t at = 0; at < 64; at++) sent[at] = 0;
    for (int round = 0; round < 1000; round++) {
        struct iovec part = {"hostile", 7};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        memset(&control, 0, sizeof control);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof sent);
        memcpy(CMSG_DATA(&control.head), sent, sizeof sent);
        if (sendmsg(round % 2 ? 3 : 4, &message, MSG_NOSIGNAL) < 0) break;
    }
}

static void forge_control_messages(struct run *run) {
    (void)run;
    char bytes[512];
    memset(bytes, 0xff, sizeof bytes);
    for (int round = 0; round < 10000; round++)
        if (send(3, bytes, (size_t)(round % 512), MSG_NOSIGNAL) < 0) break;
}

static void flood_data_channel(struct run *run) {
    (void)run;
    /* A frame that announces 2^62 bytes, then as many as are taken. */
    static char bytes[65536];
    memcpy(bytes, "\2\x40\0\0\0\0\0\0\0", 9);
    for (long round = 0; round < 100000; round++)
        if (send(4, bytes, sizeof bytes, MSG_NOSIGNAL) < 0) break;
}

const struct probe network_probes[] = {
    {"connect-to-loopback", connect_to_loopback},
    {"connect-to-management", connect_to_management},
    {"send-datagram", send_datagram},
    {"connect-by-ipv6", connect_by_ipv6},
    {"connect-to-metadata", connect_to_metadata},
    {"connect-to-unix-socket", connect_to_unix_socket},
    {"connect-to-abstract-socket", connect_to_abstract_socket},
    {"make-raw-socket", make_raw_socket},
    {"make-packet-socket", make_packet_socket},
    {"make-netlink-socket", make_netlink_socket},
    {"make-exotic-socket", make_exotic_socket},
    {"make-socket-pair", make_socket_pair},
    {"listen-on-inherited", listen_on_inherited},
    {"redirect-inherited", redirect_inherited},
    {"configure-network", configure_network},
    {"flood-with-descriptors", flood_with_descriptors},
    {"forge-control-messages", forge_control_messages},
    {"flood-data-channel", flood_data_channel},
    {NULL, NULL},
};

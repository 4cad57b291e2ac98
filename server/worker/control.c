/* control.c: the control socket between the master and one worker.
 *
 * A SOCK_SEQPACKET pair: a message is one struct control_msg, whole or not at all, and the end of
 * the stream is seen when the other process dies, however it dies. Knows no Python: both ends link
 * it.
 * Runs on:  the master's loop, the worker's loop thread.
 * Owns:     nothing; descriptors received are the caller's. */
#include "worker.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Room for one descriptor; the union gives it the alignment of a header. */
union ancillary {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int))];
};

int
control_send(int sock, enum control_kind kind, int32_t id, int fd)
{
    struct control_msg msg;
    memset(&msg, 0, sizeof(msg)); /* no padding bytes of our stack on the wire */
    msg.kind = (unsigned char)kind;
    msg.id = id;
    struct iovec iov = { &msg, sizeof(msg) };
    union ancillary ancillary;
    struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (fd >= 0) {
        memset(&ancillary, 0, sizeof(ancillary));
        head.msg_control = ancillary.room;
        head.msg_controllen = sizeof(ancillary.room);
        struct cmsghdr *c = CMSG_FIRSTHDR(&head);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    for (;;) {
        if (sendmsg(sock, &head, MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno == EINTR)
            continue;
        return errno == ECONNRESET ? -EPIPE : -errno;
    }
}

/* The first descriptor that came along, or -1; what else came (our peer never sends more) is
 * closed. */
static int
fd_of_message(struct msghdr *head)
{
    int fd = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(head); c != NULL; c = CMSG_NXTHDR(head, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
            if (fd < 0)
                fd = got;
            else
                close(got);
        }
    }
    return fd;
}

int
control_recv(int sock, struct control_msg *msg, int *fd)
{
    struct control_msg in;
    struct iovec iov = { &in, sizeof(in) };
    union ancillary ancillary;
    struct msghdr head = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = ancillary.room,
        .msg_controllen = sizeof(ancillary.room),
    };
    ssize_t n;
    do
        n = recvmsg(sock, &head, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? -EPIPE : errno == EWOULDBLOCK ? -EAGAIN : -errno;
    int got = fd_of_message(&head);
    if (n == 0 && got < 0)
        return -EPIPE;
    if (n != (ssize_t)sizeof(in) || (head.msg_flags & MSG_TRUNC)) {
        if (got >= 0)
            close(got);
        return -EBADMSG;
    }
    /* MSG_CTRUNC: this process has no descriptor free; the message counts, without its
     * descriptor. */
    *msg = in;
    *fd = got;
    return 0;
}

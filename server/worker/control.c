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

/* Room for the descriptors; the union gives it the alignment of a header. */
union ancillary {
    struct cmsghdr align;
    char room[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
};

int
control_send_fds(int sock, const struct control_msg *msg, const int *fds, size_t n)
{
    struct control_msg out;
    memset(&out, 0, sizeof(out)); /* no padding bytes of our stack on the wire */
    out.kind = msg->kind;
    out.id = msg->id;
    out.block = msg->block;
    struct iovec iov = { &out, sizeof(out) };
    union ancillary ancillary;
    struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (n > 0) {
        memset(&ancillary, 0, sizeof(ancillary));
        head.msg_control = ancillary.room;
        head.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&head);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    for (;;) {
        if (sendmsg(sock, &head, MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno == EINTR)
            continue;
        return errno == ECONNRESET ? -EPIPE : -errno;
    }
}

int
control_send(int sock, enum control_kind kind, int32_t id, int fd)
{
    const struct control_msg msg = { .kind = (unsigned char)kind, .id = id };
    return control_send_fds(sock, &msg, &fd, fd >= 0 ? 1 : 0);
}

static void
close_all(int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* The first descriptors that came along; fds is filled with -1. What else came (our peer never sends more) is closed. */
static void
fds_of_message(struct msghdr *head, int *fds, size_t n)
{
    size_t k = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(head); c != NULL; c = CMSG_NXTHDR(head, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t came = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < came; i++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
            if (k < n)
                fds[k++] = got;
            else
                close(got);
        }
    }
}

int
control_recv_fds(int sock, struct control_msg *msg, int *fds, size_t fds_n)
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
    int got[CONTROL_FDS_MAX] = { -1, -1, -1 };
    ssize_t n;
    do
        n = recvmsg(sock, &head, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? -EPIPE : errno == EWOULDBLOCK ? -EAGAIN : -errno;
    fds_of_message(&head, got, fds_n);
    if (n == 0 && got[0] < 0)
        return -EPIPE;
    if (n != (ssize_t)sizeof(in) || (head.msg_flags & MSG_TRUNC)) {
        close_all(got, fds_n);
        return -EBADMSG;
    }
    /* MSG_CTRUNC: this process has no descriptor free; the message counts, without its
     * descriptors. */
    *msg = in;
    memcpy(fds, got, fds_n * sizeof(int));
    return 0;
}

int
control_recv(int sock, struct control_msg *msg, int *fd)
{
    return control_recv_fds(sock, msg, fd, 1);
}

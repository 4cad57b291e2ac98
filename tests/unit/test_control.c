/* The control socket: messages arrive whole, with their descriptor, and the end of the stream is
 * seen. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"
#include "worker/worker.h"

static int ends[2];

static void
pair(void)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        _exit(2);
}

static void
unpair(void)
{
    close(ends[0]);
    close(ends[1]);
}

static void
test_messages(void)
{
    struct control_msg msg = { .kind = 1, .id = 2 };
    int fd = 77;
    pair();
    ok(control_recv(ends[1], &msg, &fd) == -EAGAIN && msg.kind == 1 && msg.id == 2 && fd == 77,
       "nothing there: -EAGAIN, outputs untouched");
    CHECK(control_send(ends[0], CONTROL_UNLISTEN, 4711, -1) == 0);
    CHECK(control_send(ends[0], CONTROL_DRAIN, INT32_MIN, -1) == 0);
    CHECK(control_recv(ends[1], &msg, &fd) == 0 && msg.kind == CONTROL_UNLISTEN && msg.id == 4711 &&
          fd == -1);
    CHECK(control_recv(ends[1], &msg, &fd) == 0 && msg.kind == CONTROL_DRAIN &&
          msg.id == INT32_MIN && fd == -1);
    CHECK(control_send(ends[1], CONTROL_READY, 0, -1) == 0);
    CHECK(control_recv(ends[0], &msg, &fd) == 0 && msg.kind == CONTROL_READY);
    unpair();
}

static void
test_descriptor_travels(void)
{
    struct control_msg msg;
    int fd, pipe_ends[2];
    char c = 0;
    pair();
    if (pipe(pipe_ends) < 0)
        _exit(2);
    CHECK(control_send(ends[0], CONTROL_LISTEN, 5, pipe_ends[1]) == 0);
    close(pipe_ends[1]);
    CHECK(control_recv(ends[1], &msg, &fd) == 0 && msg.kind == CONTROL_LISTEN && msg.id == 5 &&
          fd >= 0);
    ok(fcntl(fd, F_GETFD) == FD_CLOEXEC, "received close-on-exec");
    CHECK(write(fd, "x", 1) == 1 && read(pipe_ends[0], &c, 1) == 1 && c == 'x');
    close(fd);
    ok(read(pipe_ends[0], &c, 1) == 0, "it was the only one left");
    close(pipe_ends[0]);
    unpair();
}

static void
test_several_descriptors(void)
{
    struct control_msg msg = { .kind = CONTROL_FORK, .id = 3, .block = 12 }, got;
    int fds[CONTROL_FDS_MAX], pipes[2][2];
    char c = 0;
    pair();
    if (pipe(pipes[0]) < 0 || pipe(pipes[1]) < 0)
        _exit(2);
    const int sent[] = { pipes[0][1], pipes[1][1] };
    CHECK(control_send_fds(ends[0], &msg, sent, 2) == 0);
    CHECK(control_recv_fds(ends[1], &got, fds, CONTROL_FDS_MAX) == 0 && got.kind == CONTROL_FORK &&
          got.id == 3 && got.block == 12);
    ok(fds[0] >= 0 && fds[1] >= 0 && fds[2] == -1, "two of three came");
    CHECK(fcntl(fds[1], F_GETFD) == FD_CLOEXEC);
    CHECK(write(fds[1], "x", 1) == 1 && read(pipes[1][0], &c, 1) == 1 && c == 'x');
    close(fds[0]);
    close(fds[1]);
    CHECK(control_send_fds(ends[0], &msg, sent, 2) == 0);
    close(pipes[0][1]);
    close(pipes[1][1]);
    CHECK(control_recv(ends[1], &got, fds) == 0 && fds[0] >= 0);
    close(fds[0]);
    ok(read(pipes[0][0], &c, 1) == 0 && read(pipes[1][0], &c, 1) == 0,
       "who takes one alone has the others closed");
    close(pipes[0][0]);
    close(pipes[1][0]);
    unpair();
}

static void
test_the_end_of_the_stream(void)
{
    struct control_msg msg;
    int fd, status;
    pair();
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        control_send(ends[1], CONTROL_READY, 1, -1);
        _exit(0);
    }
    close(ends[1]);
    waitpid(pid, &status, 0);
    ok(control_recv(ends[0], &msg, &fd) == 0 && msg.kind == CONTROL_READY,
       "what the dead one said last is heard");
    CHECK(control_recv(ends[0], &msg, &fd) == -EPIPE);
    ok(control_send(ends[0], CONTROL_DRAIN, 0, -1) == -EPIPE,
       "speaking to the dead is an error, not a signal");
    close(ends[0]);
}

static void
test_no_message(void)
{
    struct control_msg msg = { .kind = 9 };
    int fd = 77, zero = open("/dev/null", O_RDONLY);
    pair();
    CHECK(send(ends[0], "x", 1, 0) == 1);
    ok(control_recv(ends[1], &msg, &fd) == -EBADMSG && msg.kind == 9, "too short");
    char big[64] = { 0 };
    CHECK(send(ends[0], big, sizeof(big), 0) == sizeof(big));
    ok(control_recv(ends[1], &msg, &fd) == -EBADMSG && fd == 77, "too long");
    /* More descriptors than one: nothing leaks. */
    int before = dup(zero);
    close(before);
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(3 * sizeof(int))];
    } ancillary = { 0 };
    struct control_msg out = { .kind = CONTROL_LISTEN };
    struct iovec iov = { &out, sizeof(out) };
    struct msghdr head = { .msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = &ancillary,
                           .msg_controllen = sizeof(ancillary.room) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&head);
    *c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
                           .cmsg_type = SCM_RIGHTS,
                           .cmsg_len = CMSG_LEN(3 * sizeof(int)) };
    memcpy(CMSG_DATA(c), (int[]){ zero, zero, zero }, 3 * sizeof(int));
    CHECK(sendmsg(ends[0], &head, 0) == sizeof(out));
    CHECK(control_recv(ends[1], &msg, &fd) == 0 && fd >= 0);
    close(fd);
    int after = dup(zero);
    ok(after == before, "three descriptors came, one was kept, none leaked");
    close(after);
    close(zero);
    unpair();
}

static void
test_no_descriptor_free(void)
{
    struct control_msg msg;
    struct rlimit old, none;
    int fd = 77;
    pair();
    CHECK(control_send(ends[0], CONTROL_LISTEN, 8, STDOUT_FILENO) == 0);
    getrlimit(RLIMIT_NOFILE, &old);
    none = old;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    int err = control_recv(ends[1], &msg, &fd);
    setrlimit(RLIMIT_NOFILE, &old);
    ok(err == 0 && msg.kind == CONTROL_LISTEN && msg.id == 8 && fd == -1,
       "the message arrives without it");
    unpair();
}

static void
test_a_full_queue(void)
{
    int err = 0;
    pair();
    for (int i = 0; i < 100000 && err == 0; i++)
        err = control_send(ends[0], CONTROL_UNLISTEN, i, -1);
    ok(err == -EAGAIN, "a reader that hangs does not block the writer");
    unpair();
}

int
main(void)
{
    test_messages();
    test_descriptor_travels();
    test_several_descriptors();
    test_the_end_of_the_stream();
    test_no_message();
    test_no_descriptor_free();
    test_a_full_queue();
    return tap_done();
}

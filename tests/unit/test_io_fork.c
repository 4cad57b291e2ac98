/* test_io_fork.c: io_abandon() in a forked child leaves the parent's instance unharmed. */
#include <sys/wait.h>

#include "io_test.h"

static int
child_main(struct rec *watch, int fds_of_io)
{
    int before = open_fds();
    enum io_backend which = strcmp(io_name(io), "epoll") == 0 ? IO_EPOLL : IO_URING;
    io_abandon(io);
    if (open_fds() != before - fds_of_io)
        return 1;
    if (watch->op.armed || watch->calls != 0)
        return 2;
    /* The child can have an instance of its own, and use the operation in it. */
    char why[IO_WHY_SIZE];
    int p[2];
    if (io_open(which, &io, why) < 0)
        return 3;
    make_pair(p);
    io_watch(io, &watch->op, p[0]);
    if (write(p[1], "x", 1) != 1)
        return 4;
    WAIT_UNTIL(watch->calls);
    if (!(watch->res & POLLIN))
        return 5;
    io_close(io);
    return 0;
}

static void
test_fork(void)
{
    int p[2], q[2], full[2];
    static char big[1024 * 1024];
    struct iovec iov = { big, sizeof(big) };
    struct rec watch, poll_rec, send;
    int before = open_fds();
    struct io *extra;
    char why[IO_WHY_SIZE];
    /* How many descriptors an instance has. */
    io_open(strcmp(io_is, "epoll") == 0 ? IO_EPOLL : IO_URING, &extra, why);
    int fds_of_io = open_fds() - before;
    io_close(extra);

    make_pair(p);
    make_pair(q);
    make_pair(full);
    rec_init(&watch, rec_fn);
    rec_init(&poll_rec, rec_fn);
    rec_init(&send, rec_fn);
    io_watch(io, &watch.op, p[0]);
    io_poll(io, &poll_rec.op, q[0], POLLIN);
    while (write(full[0], big, sizeof(big)) > 0) {
    }
    io_send(io, &send.op, full[0], &iov, 1);
    settle();
    ok(send.op.armed && watch.calls == 0, "%s: all in flight", io_is);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(30);
        _exit(child_main(&watch, fds_of_io));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0,
       "%s: the child leaves and has one of its own (status %x)", io_is, (unsigned)status);
    settle();
    ok(watch.calls == 0 && poll_rec.calls == 0 && send.calls == 0, "%s: the parent noticed nothing",
       io_is);
    ok(write(p[1], "x", 1) == 1 && write(q[1], "x", 1) == 1, "%s: written", io_is);
    while (read(full[1], big, sizeof(big)) > 0) {
    }
    WAIT_UNTIL(watch.calls && poll_rec.calls && send.calls);
    ok(watch.res & POLLIN, "%s: its watch works", io_is);
    ok(poll_rec.res & POLLIN, "%s: its poll works", io_is);
    ok(send.res > 0, "%s: its send goes on (%d)", io_is, send.res);
    io_cancel(io, &watch.op);
    io_cancel(io, &poll_rec.op);
    WAIT_UNTIL(watch.ends && poll_rec.ends);
    ok(watch.res == -ECANCELED && poll_rec.res == -ECANCELED, "%s: cancels work", io_is);
    int *all[] = { p, q, full };
    for (int i = 0; i < 3; i++) {
        close(all[i][0]);
        close(all[i][1]);
    }
}

/* A child that runs on without abandoning anything has no descriptor of ours after its exec. */
static void
test_exec(void)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c",
              "ls -l /proc/self/fd | grep -E 'io_uring|eventpoll|eventfd' && exit 1; exit 0",
              (char *)NULL);
        _exit(99);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: closed on exec (status %x)", io_is,
       (unsigned)status);
}

int
main(void)
{
    EACH_BACKEND(test_fork);
    EACH_BACKEND(test_exec);
    return tap_done();
}

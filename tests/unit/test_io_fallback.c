/* test_io_fallback.c: what io_open() does where the ring is refused, by seccomp filters and limits, each in a child. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "io_test.h"

/* From now on the system call has this outcome (SECCOMP_RET_...). */
static void
filter(int nr, uint32_t outcome)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, outcome),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { ARRAY_LEN(code), code };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        perror("seccomp");
        _exit(99);
    }
}

static void
refuse(int nr, int err)
{
    filter(nr, SECCOMP_RET_ERRNO | (uint32_t)err);
}

/* Runs a case in a child; what it returns is the exit status, 0 for success. */
static void
in_child(int (*fn)(int arg), int arg, const char *name)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(30);
        _exit(fn(arg));
    }
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s (status %x)", name, (unsigned)status);
}

#define EXPECT(cond)                                                                               \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            diag("line %d: %s; why: %s", __LINE__, #cond, why);                                    \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

/* epoll works, the message names the errno and fits in one line. */
static int
falls_back(const char *name)
{
    char why[IO_WHY_SIZE];
    struct rec r;
    int p[2];
    int before = open_fds();
    EXPECT(io_open(IO_URING, &io, why) < 0);
    EXPECT(strstr(why, name) != NULL && strstr(why, "using epoll") == NULL);
    EXPECT(open_fds() == before);
    EXPECT(io_open(IO_AUTO, &io, why) == 0);
    EXPECT(strcmp(io_name(io), "epoll") == 0);
    EXPECT(strstr(why, "io_uring refused (") == why && strstr(why, name) != NULL &&
           strstr(why, "using epoll") != NULL);
    EXPECT(strchr(why, '\n') == NULL && strlen(why) < IO_WHY_SIZE - 1);
    diag("%s", why);
    make_pair(p);
    rec_init(&r, rec_fn);
    io_watch(io, &r.op, p[0]);
    EXPECT(write(p[1], "x", 1) == 1);
    WAIT_UNTIL(r.calls);
    EXPECT(r.res & POLLIN);
    io_close(io);
    close(p[0]);
    close(p[1]);
    EXPECT(open_fds() == before);
    EXPECT(strcmp(io_probe(why), "epoll") == 0 && strstr(why, name) != NULL);
    return 0;
}

static int
setup_refused(int err)
{
    refuse(SYS_io_uring_setup, err);
    return falls_back(strerrorname_np(err));
}

/* The ring can be made but not used, or not registered for. */
static int
enter_refused(int err)
{
    refuse(SYS_io_uring_enter, err);
    return falls_back(strerrorname_np(err));
}

static int
register_refused(int err)
{
    char why[IO_WHY_SIZE];
    refuse(SYS_io_uring_register, err);
    EXPECT(io_open(IO_AUTO, &io, why) == 0);
    EXPECT(strcmp(io_name(io), "io_uring") == 0 && why[0] == '\0');
    io_wake(io);
    io_wait(io, -1);
    io_close(io);
    return 0;
}

static int
nothing_to_say(int unused)
{
    char why[IO_WHY_SIZE];
    (void)unused;
    EXPECT(io_open(IO_AUTO, &io, why) == 0);
    EXPECT(strcmp(io_name(io), "io_uring") == 0 && why[0] == '\0');
    io_close(io);
    EXPECT(strcmp(io_probe(why), "io_uring") == 0 && why[0] == '\0');
    EXPECT(io_open(IO_EPOLL, &io, why) == 0);
    EXPECT(strcmp(io_name(io), "epoll") == 0 && why[0] == '\0');
    io_close(io);
    return 0;
}

/* epoll without its newest call: timeouts are rounded up, never down. */
static int
old_epoll(int err)
{
    char why[IO_WHY_SIZE];
    refuse(SYS_epoll_pwait2, err);
    EXPECT(io_open(IO_EPOLL, &io, why) == 0);
    for (int i = 0; i < 20; i++) {
        int64_t start = clock_ns();
        io_wait(io, 1500000);
        EXPECT(clock_ns() - start >= 1500000);
    }
    int64_t start = clock_ns();
    io_wait(io, 1);
    EXPECT(clock_ns() - start < NS_PER_S);
    io_wake(io);
    io_wait(io, INT64_MAX);
    io_close(io);
    return 0;
}

/* Without privileges, under a limit of locked memory: a smaller ring, or none. Kernels 5.12 to 6.x did not count rings;
 * there the full ring is right. */
static int
memlock(int kib)
{
    char why[IO_WHY_SIZE];
    struct rlimit limit = { (rlim_t)kib * 1024, (rlim_t)kib * 1024 };
    setrlimit(RLIMIT_MEMLOCK, &limit);
    if (getuid() == 0 && setuid(64999) < 0)
        return 0;
    EXPECT(io_open(IO_AUTO, &io, why) == 0);
    diag("%d KiB of locked memory: %s; %s", kib, io_name(io), why);
    if (why[0] != '\0' && kib < 8)
        EXPECT(strcmp(io_name(io), "epoll") == 0 && strstr(why, "ENOMEM") != NULL);
    if (kib >= 64)
        EXPECT(strcmp(io_name(io), "io_uring") == 0 &&
               (why[0] == '\0' || strstr(why, "entries") != NULL));
    io_wake(io);
    io_wait(io, -1);
    io_close(io);
    return 0;
}

/* No descriptor left: an error and a reason, and nothing left open. */
static int
no_descriptors(int left)
{
    char why[IO_WHY_SIZE];
    int before = open_fds();
    int next = dup(0);
    close(next);
    struct rlimit limit = { (rlim_t)(next + left), 1024 };
    setrlimit(RLIMIT_NOFILE, &limit);
    int err = io_open(IO_AUTO, &io, why);
    if (left < 2) {
        EXPECT(err == -EMFILE && why[0] != '\0');
    } else {
        /* Enough for epoll or the ring, not for the self-test of the ring. */
        EXPECT(err == 0 && strcmp(io_name(io), "epoll") == 0 && strstr(why, "EMFILE") != NULL);
        io_close(io);
    }
    EXPECT(open_fds() == before);
    return 0;
}

/* io_wait(0) with nothing to do, and io_flush() with nothing queued, make no system call on the ring: a filter kills. */
static int
silent_look(int unused)
{
    char why[IO_WHY_SIZE];
    struct rec r;
    int p[2];
    (void)unused;
    EXPECT(io_open(IO_URING, &io, why) == 0);
    make_pair(p);
    rec_init(&r, rec_fn);
    io_watch(io, &r.op, p[0]);
    settle();
    filter(SYS_io_uring_enter, SECCOMP_RET_KILL_PROCESS);
    for (int i = 0; i < 100; i++) {
        io_wait(io, 0);
        io_flush(io);
        io_wake(io);
    }
    return 0;
}

static int stuck_ends;

static void
stuck_fn(struct io_op *op, int res, unsigned flags)
{
    (void)op;
    stuck_ends += res == -ECANCELED && flags == 0;
}

/* A kernel that takes no submission (no memory): io_wait() neither spins nor hangs, and what never reached the kernel can
 * be cancelled. */
static int
nothing_is_taken(int err)
{
    enum { N = 2000 }; /* more than the submission queue holds */
    static struct io_op ops[N];
    char why[IO_WHY_SIZE];
    int p[2];
    static const struct iovec iov = { "x", 1 };
    EXPECT(io_open(IO_URING, &io, why) == 0);
    io_wait(io, 0);
    make_pair(p);
    refuse(SYS_io_uring_enter, err);
    stuck_ends = 0;
    for (int i = 0; i < N; i++) {
        io_op_init(&ops[i], stuck_fn);
        if (i % 2)
            io_watch(io, &ops[i], p[0]);
        else
            io_send(io, &ops[i], p[0], &iov, 1);
    }
    io_flush(io);
    int64_t start = clock_ns();
    for (int i = 0; i < 10; i++)
        io_wait(io, -1);
    EXPECT(stuck_ends == 0);
    EXPECT(clock_ns() - start > 10 * NS_PER_MS && clock_ns() - start < 5 * NS_PER_S);
    for (int i = 0; i < N; i++)
        io_cancel(io, &ops[i]);
    EXPECT(stuck_ends == 0);
    for (int i = 0; i < 3; i++)
        io_wait(io, 0);
    EXPECT(stuck_ends == N);
    io_close(io);
    return 0;
}

int
main(void)
{
    char why[IO_WHY_SIZE];
    if (io_open(IO_URING, &io, why) < 0) {
        /* A machine that refuses by itself: what is left to test is that it says so. */
        diag("%s", why);
        ok(why[0] != '\0', "the refusal has a reason");
        ok(strcmp(io_probe(why), "epoll") == 0, "and epoll is taken");
        return tap_done();
    }
    io_close(io);
    in_child(nothing_to_say, 0, "the ring where it is allowed, without a word");
    static const int errs[] = { EPERM,  ENOSYS, ENOMEM, EINVAL, EOPNOTSUPP,
                                EMFILE, ENFILE, EACCES, EBUSY,  ENXIO };
    for (size_t i = 0; i < ARRAY_LEN(errs); i++) {
        char name[64];
        snprintf(name, sizeof(name), "io_uring_setup: %s", strerrorname_np(errs[i]));
        in_child(setup_refused, errs[i], name);
    }
    in_child(enter_refused, EPERM, "io_uring_enter: EPERM, found by the self-test");
    in_child(enter_refused, ENOSYS, "io_uring_enter: ENOSYS, found by the self-test");
    in_child(register_refused, EPERM, "io_uring_register: not needed");
    in_child(old_epoll, ENOSYS, "epoll without epoll_pwait2 (ENOSYS)");
    in_child(old_epoll, EPERM, "epoll without epoll_pwait2 (EPERM)");
    in_child(memlock, 4, "4 KiB of locked memory");
    in_child(memlock, 64, "64 KiB of locked memory");
    in_child(memlock, 1024, "1 MiB of locked memory");
    in_child(no_descriptors, 0, "no descriptor free");
    in_child(no_descriptors, 1, "one descriptor free");
    in_child(no_descriptors, 2, "two descriptors free");
    in_child(nothing_is_taken, EAGAIN, "a kernel without memory for submissions (EAGAIN)");
    in_child(nothing_is_taken, EBUSY, "a kernel without room for completions (EBUSY)");
    in_child(silent_look, 0, "a look at an idle ring makes no system call");
    return tap_done();
}

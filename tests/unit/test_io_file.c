/* test_io_file.c: system calls on files by io_file(): each of them, errors, cancelling, many at once, what io_close() leaves. */
#include <limits.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <threads.h>

#include "io_test.h"

static char folder[] = "/tmp/ringcorn-io-file-XXXXXX";

struct call {
    struct io_file file;
    int calls, res;
    struct io *on;
};

static int ended;

static void
call_fn(struct io_op *op, int res, unsigned flags)
{
    struct call *c = CONTAINER_OF(op, struct call, file.op);
    c->calls++;
    c->res = res;
    ended += !(flags & IO_MORE);
}

static struct call *
call_new(enum io_file_what what)
{
    struct call *c = calloc(1, sizeof(*c));
    io_op_init(&c->file.op, call_fn);
    c->file.what = what;
    c->file.fd = -1;
    c->file.dir_fd = c->file.dir_fd2 = AT_FDCWD;
    c->file.at = -1;
    return c;
}

/* Does it and frees it. */
static int
finish(struct call *c)
{
    io_file(io, &c->file);
    if (c->calls != 0)
        return -12345; /* from inside io_file() */
    WAIT_UNTIL_MS(!c->file.op.armed, 5000);
    int res = c->calls == 1 && !c->file.op.armed ? c->res : -54321;
    memset(c, 0x5a, sizeof(*c));
    free(c);
    return res;
}

static const char *
path(const char *name)
{
    static char paths[4][256];
    static unsigned turn;
    char *p = paths[turn++ % 4];
    snprintf(p, 256, "%s/%s", folder, name);
    return p;
}

static int
open_file(const char *name, int flags)
{
    struct call *c = call_new(IO_FILE_OPEN);
    c->file.path = path(name);
    c->file.flags = flags | O_CLOEXEC;
    c->file.mode = 0640;
    return finish(c);
}

static int
rw(enum io_file_what what, int fd, void *buf, size_t n, int64_t at)
{
    struct call *c = call_new(what);
    c->file.fd = fd;
    c->file.buf = buf;
    c->file.n = n;
    c->file.at = at;
    return finish(c);
}

static int
close_file(int fd)
{
    struct call *c = call_new(IO_FILE_CLOSE);
    c->file.fd = fd;
    return finish(c);
}

static int
two_paths(enum io_file_what what, const char *a, const char *b, int flags)
{
    struct call *c = call_new(what);
    c->file.path = a;
    c->file.path2 = b;
    c->file.flags = flags;
    c->file.mode = 0750;
    return finish(c);
}

static int
answer(struct io_file *f)
{
    return f->flags;
}

static void
test_calls(void)
{
    char buf[64] = { 0 };
    umask(0027);
    int fd = open_file("a", O_RDWR | O_CREAT | O_EXCL);
    ok(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC), "%s: open (%d)", io_is, fd);
    ok(open_file("a", O_RDWR | O_CREAT | O_EXCL) == -EEXIST, "%s: not twice", io_is);
    ok(open_file("none/a", O_RDONLY) == -ENOENT, "%s: ENOENT", io_is);
    ok(rw(IO_FILE_WRITE, fd, "hello world", 11, -1) == 11, "%s: write", io_is);
    ok(lseek(fd, 0, SEEK_CUR) == 11, "%s: moves where it stands", io_is);
    ok(rw(IO_FILE_WRITE, fd, "H", 1, 0) == 1 && lseek(fd, 0, SEEK_CUR) == 11, "%s: pwrite does not",
       io_is);
    ok(rw(IO_FILE_READ, fd, buf, sizeof(buf), -1) == 0, "%s: end of file", io_is);
    ok(rw(IO_FILE_READ, fd, buf, sizeof(buf), 6) == 5 && strcmp(buf, "world") == 0, "%s: pread",
       io_is);
    lseek(fd, 0, SEEK_SET);
    ok(rw(IO_FILE_READ, fd, buf, 5, -1) == 5 && memcmp(buf, "Hello", 5) == 0 &&
           lseek(fd, 0, SEEK_CUR) == 5,
       "%s: read", io_is);
    ok(rw(IO_FILE_READ, 999, buf, 5, -1) == -EBADF, "%s: EBADF", io_is);

    struct call *c = call_new(IO_FILE_SYNC);
    c->file.fd = fd;
    ok(finish(c) == 0, "%s: fsync", io_is);
    c = call_new(IO_FILE_SYNC);
    c->file.fd = fd;
    c->file.flags = IO_FILE_DATASYNC;
    ok(finish(c) == 0, "%s: fdatasync", io_is);

    c = call_new(IO_FILE_ALLOCATE);
    c->file.fd = fd;
    c->file.at = 0;
    c->file.size = 8192;
    ok(finish(c) == 0, "%s: fallocate", io_is);
    struct statx stx;
    c = call_new(IO_FILE_STAT);
    c->file.path = path("a");
    c->file.buf = &stx;
    ok(finish(c) == 0 && stx.stx_size == 8192 && (stx.stx_mode & 07777) == 0640,
       "%s: statx: %llu bytes, mode %o", io_is, (unsigned long long)stx.stx_size, stx.stx_mode);
    c = call_new(IO_FILE_TRUNCATE);
    c->file.fd = fd;
    c->file.at = 3;
    ok(finish(c) == 0, "%s: ftruncate", io_is);
    c = call_new(IO_FILE_STAT);
    c->file.dir_fd = fd;
    c->file.path = "";
    c->file.flags = AT_EMPTY_PATH;
    c->file.buf = &stx;
    ok(finish(c) == 0 && stx.stx_size == 3, "%s: statx of a descriptor", io_is);

    ok(two_paths(IO_FILE_MKDIR, path("dir"), NULL, 0) == 0, "%s: mkdir", io_is);
    ok(two_paths(IO_FILE_MKDIR, path("dir"), NULL, 0) == -EEXIST, "%s: mkdir again", io_is);
    ok(stat(path("dir"), &(struct stat){ 0 }) == 0, "%s: it is there", io_is);
    ok(two_paths(IO_FILE_LINK, path("a"), path("dir/b"), 0) == 0, "%s: link", io_is);
    ok(two_paths(IO_FILE_SYMLINK, "b", path("dir/s"), 0) == 0, "%s: symlink", io_is);
    ok(readlink(path("dir/s"), buf, sizeof(buf)) == 1 && buf[0] == 'b', "%s: to where", io_is);
    ok(two_paths(IO_FILE_RENAME, path("a"), path("c"), 0) == 0, "%s: rename", io_is);
    ok(two_paths(IO_FILE_UNLINK, path("a"), NULL, 0) == -ENOENT, "%s: the old name", io_is);
    ok(two_paths(IO_FILE_UNLINK, path("dir"), NULL, AT_REMOVEDIR) == -ENOTEMPTY, "%s: ENOTEMPTY",
       io_is);
    ok(two_paths(IO_FILE_UNLINK, path("c"), NULL, 0) == 0 &&
           two_paths(IO_FILE_UNLINK, path("dir/b"), NULL, 0) == 0 &&
           two_paths(IO_FILE_UNLINK, path("dir/s"), NULL, 0) == 0 &&
           two_paths(IO_FILE_UNLINK, path("dir"), NULL, AT_REMOVEDIR) == 0,
       "%s: unlink, rmdir", io_is);
    c = call_new(IO_FILE_CALL);
    c->file.call = answer;
    c->file.flags = 42;
    ok(finish(c) == 42, "%s: a call in a thread", io_is);
    ok(close_file(fd) == 0 && fcntl(fd, F_GETFD) < 0, "%s: close", io_is);
    ok(close_file(fd) == -EBADF, "%s: and not twice", io_is);
}

/* More than there are places, in the ring and threads, all in flight together. */
static void
test_many(void)
{
    enum { MANY = 3000, SIZE = 512 };
    static char from[MANY * SIZE], to[MANY * SIZE];
    struct call **calls = calloc(MANY, sizeof(*calls));
    for (size_t i = 0; i < sizeof(from); i++)
        from[i] = (char)(i * 31 + i / SIZE);
    int fd = open_file("many", O_RDWR | O_CREAT | O_TRUNC);
    for (int round = 0; round < 2; round++) {
        ended = 0;
        for (int i = 0; i < MANY; i++) {
            struct call *c = calls[i] = call_new(round == 0 ? IO_FILE_WRITE : IO_FILE_READ);
            c->file.fd = fd;
            c->file.buf = (round == 0 ? from : to) + (size_t)i * SIZE;
            c->file.n = SIZE;
            c->file.at = (int64_t)i * SIZE;
            io_file(io, &c->file);
        }
        WAIT_UNTIL_MS(ended == MANY, 20000);
        int wrong = 0;
        for (int i = 0; i < MANY; i++) {
            wrong += calls[i]->calls != 1 || calls[i]->res != SIZE;
            free(calls[i]);
        }
        ok(ended == MANY && wrong == 0, "%s: %d %s at once (%d wrong)", io_is, MANY,
           round == 0 ? "writes" : "reads", wrong);
    }
    ok(memcmp(from, to, sizeof(from)) == 0, "%s: and all is there", io_is);
    free(calls);
    close(fd);
    unlink(path("many"));
}

/* What waits for a pipe can be cancelled wherever it stands, and loses nothing that is written later. */
static void
test_cancel_pipe(void)
{
    enum { UNSENT, ARMED, STAGES };
    for (int stage = 0; stage < STAGES; stage++) {
        int p[2];
        char buf[16] = { 0 };
        ok(pipe2(p, O_CLOEXEC) == 0, "%s: a pipe", io_is);
        struct call *c = call_new(IO_FILE_READ);
        c->file.fd = p[0];
        c->file.buf = buf;
        c->file.n = sizeof(buf);
        io_file(io, &c->file);
        if (stage == ARMED)
            for (int i = 0; i < 10; i++)
                io_wait(io, 3 * NS_PER_MS);
        ok(c->calls == 0, "%s: it waits", io_is);
        io_cancel(io, &c->file.op);
        io_cancel(io, &c->file.op);
        ok(c->calls == 0, "%s: io_cancel() only asks", io_is);
        WAIT_UNTIL_MS(!c->file.op.armed, 5000);
        ok(c->calls == 1 && c->res == -ECANCELED, "%s: stage %d: cancelled (%d)", io_is, stage,
           c->res);
        free(c);
        ok(write(p[1], "later", 5) == 5, "%s: written", io_is);
        ok(rw(IO_FILE_READ, p[0], buf, sizeof(buf), -1) == 5 && memcmp(buf, "later", 5) == 0,
           "%s: and read by the next", io_is);

        /* A write into a full one. */
        fcntl(p[1], F_SETFL, O_NONBLOCK);
        static char big[1 << 20];
        while (write(p[1], big, sizeof(big)) > 0) {
        }
        fcntl(p[1], F_SETFL, 0);
        c = call_new(IO_FILE_WRITE);
        c->file.fd = p[1];
        c->file.buf = big;
        c->file.n = sizeof(big);
        io_file(io, &c->file);
        if (stage == ARMED)
            for (int i = 0; i < 10; i++)
                io_wait(io, 3 * NS_PER_MS);
        io_cancel(io, &c->file.op);
        WAIT_UNTIL_MS(!c->file.op.armed, 5000);
        ok(c->calls == 1 && c->res == -ECANCELED, "%s: a write as well (%d)", io_is, c->res);
        free(c);
        close(p[0]);
        close(p[1]);
    }
}

/* A FIFO is opened when its other end is, and not before. */
static void
test_fifo(void)
{
    const char *fifo = path("fifo");
    char buf[8] = { 0 };
    int before = open_fds();
    ok(mkfifo(fifo, 0600) == 0, "%s: a FIFO", io_is);
    struct call *reader = call_new(IO_FILE_OPEN), *writer = call_new(IO_FILE_OPEN);
    reader->file.path = writer->file.path = fifo;
    reader->file.flags = O_RDONLY | O_CLOEXEC;
    writer->file.flags = O_WRONLY | O_CLOEXEC;
    for (int first = 0; first < 2; first++) {
        struct call *a = first == 0 ? reader : writer, *b = first == 0 ? writer : reader;
        a->calls = b->calls = 0;
        io_file(io, &a->file);
        for (int i = 0; i < 10; i++)
            io_wait(io, 3 * NS_PER_MS);
        ok(a->calls == 0, "%s: the %s waits", io_is, first == 0 ? "reader" : "writer");
        io_file(io, &b->file);
        WAIT_UNTIL_MS(a->calls && b->calls, 5000);
        ok(a->res >= 0 && b->res >= 0, "%s: until the other comes (%d, %d)", io_is, a->res, b->res);
        ok(rw(IO_FILE_WRITE, writer->res, "through", 7, -1) == 7 &&
               rw(IO_FILE_READ, reader->res, buf, sizeof(buf), -1) == 7,
           "%s: it works", io_is);
        close(a->res);
        close(b->res);
    }
    reader->calls = 0;
    io_file(io, &reader->file);
    for (int i = 0; i < 10; i++)
        io_wait(io, 3 * NS_PER_MS);
    io_cancel(io, &reader->file.op);
    /* A thread that is inside open() can only be let out by the other end; what it has opened is ours. */
    int other = strcmp(io_is, "epoll") == 0 ? open(fifo, O_WRONLY | O_NONBLOCK | O_CLOEXEC) : -1;
    WAIT_UNTIL_MS(reader->calls, 5000);
    ok(reader->res == (other >= 0 ? reader->res : -ECANCELED) && reader->calls == 1,
       "%s: it can be cancelled (%d)", io_is, reader->res);
    if (reader->res >= 0)
        close(reader->res);
    if (other >= 0)
        close(other);
    free(reader);
    free(writer);
    unlink(fifo);
    ok(open_fds() == before, "%s: no descriptor is left (%d, %d before)", io_is, open_fds(),
       before);
}

/* All of a big buffer goes through a pipe in the end, by short writes. */
static void
test_pipe_stream(void)
{
    enum { SIZE = 1 << 20 };
    static char from[SIZE], to[SIZE];
    int p[2], fds = pipe2(p, O_CLOEXEC);
    for (int i = 0; i < SIZE; i++)
        from[i] = (char)(i * 7 + i / 4096);
    struct call *out = call_new(IO_FILE_WRITE), *in = call_new(IO_FILE_READ);
    out->file.fd = p[1];
    in->file.fd = p[0];
    size_t sent = 0, got = 0;
    int64_t until = clock_ns() + 20 * NS_PER_S;
    while (fds == 0 && got < SIZE && clock_ns() < until) {
        if (!out->file.op.armed && sent < SIZE) {
            sent += out->calls > 0 && out->res > 0 ? (size_t)out->res : 0;
            out->res = 0;
            out->file.buf = from + sent;
            out->file.n = SIZE - sent;
            if (sent < SIZE)
                io_file(io, &out->file);
        }
        if (!in->file.op.armed) {
            got += in->calls > 0 && in->res > 0 ? (size_t)in->res : 0;
            in->res = 0;
            in->file.buf = to + got;
            in->file.n = SIZE - got;
            if (got < SIZE)
                io_file(io, &in->file);
        }
        io_wait(io, 20 * NS_PER_MS);
    }
    ok(got == SIZE && memcmp(from, to, SIZE) == 0, "%s: 1 MiB through a pipe (%zu)", io_is, got);
    WAIT_UNTIL(!out->file.op.armed && !in->file.op.armed);
    free(out);
    free(in);
    close(p[0]);
    close(p[1]);
}

/* A non-blocking descriptor is waited for like any other. */
static void
test_nonblocking(void)
{
    int p[2];
    char buf[8] = { 0 };
    ok(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0, "%s: a pipe", io_is);
    struct call *c = call_new(IO_FILE_READ);
    c->file.fd = p[0];
    c->file.buf = buf;
    c->file.n = sizeof(buf);
    io_file(io, &c->file);
    for (int i = 0; i < 5; i++)
        io_wait(io, 3 * NS_PER_MS);
    ok(c->file.op.armed, "%s: it waits", io_is);
    ok(write(p[1], "data", 4) == 4, "%s: written", io_is);
    WAIT_UNTIL_MS(!c->file.op.armed, 5000);
    ok(c->res == 4 && memcmp(buf, "data", 4) == 0, "%s: and read (%d)", io_is, c->res);
    free(c);
    close(p[1]);
    ok(rw(IO_FILE_READ, p[0], buf, sizeof(buf), -1) == 0, "%s: no writer: the end", io_is);
    close(p[0]);
}

static int
sleepy(struct io_file *f)
{
    thrd_sleep(&(struct timespec){ .tv_nsec = 20 * NS_PER_MS }, NULL);
    __atomic_fetch_add((int *)f->buf, 1, __ATOMIC_SEQ_CST);
    return 7;
}

/* More calls than threads, cancelled while they run and wait: what runs tells its result, what waits never begins. */
static void
test_cancel_threads(void)
{
    enum { MANY = 100 };
    int begun = 0, natural = 0, cancelled = 0, wrong = 0;
    struct call *calls[MANY];
    ended = 0;
    for (int i = 0; i < MANY; i++) {
        calls[i] = call_new(IO_FILE_CALL);
        calls[i]->file.call = sleepy;
        calls[i]->file.buf = &begun;
        io_file(io, &calls[i]->file);
    }
    thrd_sleep(&(struct timespec){ .tv_nsec = 10 * NS_PER_MS }, NULL);
    for (int i = 0; i < MANY; i++)
        io_cancel(io, &calls[i]->file.op);
    WAIT_UNTIL_MS(ended == MANY, 10000);
    for (int i = 0; i < MANY; i++) {
        natural += calls[i]->res == 7;
        cancelled += calls[i]->res == -ECANCELED;
        wrong += calls[i]->calls != 1;
        free(calls[i]);
    }
    ok(natural + cancelled == MANY && wrong == 0 && natural == begun && cancelled > 0,
       "%s: %d ran to their end, %d never began", io_is, natural, cancelled);
}

static int
gated(struct io_file *f)
{
    while (__atomic_load_n((int *)f->buf, __ATOMIC_SEQ_CST) == 0)
        thrd_sleep(&(struct timespec){ .tv_nsec = NS_PER_MS }, NULL);
    return 7;
}

/* All threads are inside calls that are cancelled and do not end: what waits behind them gets one of its own. */
static void
test_cancel_stuck(void)
{
    enum { MANY = 100 }; /* more than threads */
    int gate = 0, begun = 0;
    struct call *calls[MANY], *last = call_new(IO_FILE_CALL);
    ended = 0;
    for (int i = 0; i < MANY; i++) {
        calls[i] = call_new(IO_FILE_CALL);
        calls[i]->file.call = gated;
        calls[i]->file.buf = &gate;
        io_file(io, &calls[i]->file);
    }
    last->file.call = sleepy;
    last->file.buf = &begun;
    io_file(io, &last->file);
    for (int i = 0; i < 10; i++)
        io_wait(io, 3 * NS_PER_MS);
    ok(ended == 0, "%s: all wait", io_is);
    for (int i = MANY; i-- > 0;)
        io_cancel(io, &calls[i]->file.op);
    WAIT_UNTIL_MS(last->calls, 5000);
    ok(last->calls == 1 && last->res == 7, "%s: what waits behind cancelled ones is done", io_is);
    __atomic_store_n(&gate, 1, __ATOMIC_SEQ_CST);
    WAIT_UNTIL_MS(ended == MANY + 1, 10000);
    ok(ended == MANY + 1, "%s: they end when they can (%d)", io_is, ended);
    for (int i = 0; i < MANY; i++)
        free(calls[i]);
    free(last);
}

/* io_close() with operations in flight: nobody is called back, descriptors that were opened are closed again, and closes happen. */
static void
test_close(void)
{
    char why[IO_WHY_SIZE];
    struct io *mine;
    enum io_backend which = strcmp(io_is, "epoll") == 0 ? IO_EPOLL : IO_URING;
    ok(io_open(which, &mine, why) == 0, "%s: a second instance", io_is);
    enum { OPENS = 50 };
    int p[2], fds = open_fds(), slept = 0;
    struct call *calls[OPENS + 4];
    close(open_file("closing", O_WRONLY | O_CREAT));
    if (pipe2(p, O_CLOEXEC) < 0)
        ok(0, "pipe");
    int victim = dup(p[1]);
    for (int i = 0; i < OPENS; i++) {
        struct call *c = calls[i] = call_new(IO_FILE_OPEN);
        c->file.path = path("closing");
        c->file.flags = O_RDONLY | O_CLOEXEC;
        io_file(mine, &c->file);
        if (i == OPENS / 2)
            io_wait(mine, 0);
        c->calls = 0; /* of those that had their callback: */
        if (!c->file.op.armed && c->res >= 0)
            close(c->res);
    }
    char buf[8];
    struct call *c = calls[OPENS] = call_new(IO_FILE_READ);
    c->file.fd = p[0];
    c->file.buf = buf;
    c->file.n = sizeof(buf);
    io_file(mine, &c->file);
    c = calls[OPENS + 1] = call_new(IO_FILE_CLOSE);
    c->file.fd = victim;
    io_file(mine, &c->file);
    for (int i = 2; i < 4; i++) {
        c = calls[OPENS + i] = call_new(IO_FILE_CALL);
        c->file.call = sleepy;
        c->file.buf = &slept;
        io_file(mine, &c->file);
    }
    for (int i = 0; i < OPENS; i++) { /* those that the one io_wait() told of */
        if (calls[i]->calls > 0 && calls[i]->res >= 0)
            close(calls[i]->res);
        calls[i]->calls = 0;
    }
    io_close(mine);
    int told = 0, armed = 0;
    for (int i = 0; i < OPENS + 4; i++) {
        told += calls[i]->calls;
        armed += calls[i]->file.op.armed;
        free(calls[i]);
    }
    ok(told == 0 && armed == 0, "%s: nobody is called (%d), nothing is left armed (%d)", io_is,
       told, armed);
    ok(fcntl(victim, F_GETFD) < 0, "%s: a close is carried out", io_is);
    close(p[0]);
    close(p[1]);
    /* and the second instance's own are gone */
    ok(open_fds() <= fds, "%s: no descriptor of an open that nobody heard of (%d, %d before)",
       io_is, open_fds(), fds);
    unlink(path("closing"));
}

/* A child forked with operations in flight leaves the parent's alone. */
static void
test_fork(void)
{
    int p[2];
    char buf[16] = { 0 };
    if (pipe2(p, O_CLOEXEC) < 0)
        ok(0, "pipe");
    struct call *c = call_new(IO_FILE_READ);
    c->file.fd = p[0];
    c->file.buf = buf;
    c->file.n = sizeof(buf);
    io_file(io, &c->file);
    for (int i = 0; i < 5; i++)
        io_wait(io, 3 * NS_PER_MS);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20);
        io_abandon(io);
        _exit(c->file.op.armed || c->calls != 0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: the child abandons it (%x)", io_is,
       (unsigned)status);
    ok(write(p[1], "data", 4) == 4, "%s: written", io_is);
    WAIT_UNTIL_MS(!c->file.op.armed, 5000);
    ok(c->res == 4 && memcmp(buf, "data", 4) == 0, "%s: the parent's goes on", io_is);
    free(c);
    close(p[0]);
    close(p[1]);
}

int
main(void)
{
    signal(SIGPIPE, SIG_IGN);
    if (mkdtemp(folder) == NULL) {
        perror("mkdtemp");
        return 1;
    }
    EACH_BACKEND(test_calls);
    EACH_BACKEND(test_many);
    EACH_BACKEND(test_cancel_pipe);
    EACH_BACKEND(test_fifo);
    EACH_BACKEND(test_pipe_stream);
    EACH_BACKEND(test_nonblocking);
    EACH_BACKEND(test_cancel_threads);
    EACH_BACKEND(test_cancel_stuck);
    EACH_BACKEND(test_close);
    EACH_BACKEND(test_fork);
    ok(rmdir(folder) == 0, "nothing is left in the folder");
    return tap_done();
}

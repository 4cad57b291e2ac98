/* backend.h: what io.c, uring.c and epoll.c share; nothing outside this folder includes it.
 *
 * The life of an operation: io_begin() -> the backend's states -> either io_end() straight from the dispatch of
 * io_wait(), or io_finish(), which leaves it on the done list for the end of this io_wait() or the next one. */
#ifndef RINGCORN_IO_BACKEND_H
#define RINGCORN_IO_BACKEND_H

#include <errno.h>
#include <stdatomic.h>

#include "io/io.h"

enum io_kind {
    IO_KIND_ACCEPT = 1,
    IO_KIND_WATCH,
    IO_KIND_POLL,
    IO_KIND_SEND,
    IO_KIND_ROOM,
    IO_KIND_FILE,
};

/* Slept, and was woken by events that concerned nobody: the eventfd too late, room in a socket that has nothing to send, the
 * cancel that changes a poll. The caller of io_wait() would take the GIL for nothing. */
enum { IO_NOTHING = -1 };

enum io_state {
    IO_IDLE,
    IO_WAITING, /* ring: on the list of those to arm. epoll: a send on the list of those to try */
    IO_ACTIVE, /* ring: has a submission, in the queue or in the kernel. epoll: in the table of descriptors */
    IO_ORPHAN, /* epoll: its descriptor was closed and given to another operation; only a cancel can end it */
    IO_DONE,      /* on the done list */
    IO_ON_THREAD, /* threads.c's, until it is done */
};

enum {
    IO_ACCEPTS_MAX = 64, /* a listener and wait */
    IO_BATCH_MAX = 4096, /* completions a wait */
    IO_SEND_MAX = IO_FILE_MAX,
    IO_IOV_MAX = 1024,        /* UIO_MAXIOV */
    IO_FILE_BIG = 256 * 1024, /* bytes of a file that a worker of the ring's copies */
    IO_NOTHING_MAX = 64,      /* sleeps in one io_wait() that nothing came of */
};

struct io_vtable {
    const char *name;
    int (*fd)(const struct io *io);
    void (*close)(struct io *io);                         /* frees io */
    void (*stay)(struct io *io);                          /* NULL: nothing to gain */
    void (*abandon)(struct io *io);                       /* frees io */
    void (*arm)(struct io *io, struct io_op *op);         /* after io_begin() */
    void (*poll_change)(struct io *io, struct io_op *op); /* op->mask is the new one */
    /* armed, op->cancelled was just set, not IO_DONE */
    void (*cancel)(struct io *io, struct io_op *op);
    void (*let_go)(struct io *io); /* NULL where cancelling lets go at once */
    void (*flush)(struct io *io);
    bool (*has_file)(struct io *io, enum io_file_what what); /* can arm such; NULL: none */
    int (*wait)(struct io *io, int64_t timeout_ns);          /* as io_wait(), or IO_NOTHING */
};

struct io {
    const struct io_vtable *v;
    unsigned queued;      /* sends not yet handed to the kernel */
    int wake_fd;          /* an eventfd watched edge-triggered, so nobody ever reads it */
    atomic_bool sleeping; /* the owner is, or is about to be, blocked in the kernel */
    atomic_bool woken;    /* io_wake() since the last io_wait() */
    bool closing;         /* no callbacks any more */
    struct list all;
    struct list done;
    struct threads *threads; /* NULL until something had to be done in one */
};

/* Each returns 0 and *out new, or -errno. step: where it failed, static. note: "" or a remark about the ring that was had. */
int uring_open(struct io **out, const char **step, char note[IO_WHY_SIZE]);
int epoll_open(struct io **out);

/* The common part: lists and the eventfd. Returns 0 or -errno. */
int io_init(struct io *io, const struct io_vtable *v);
void io_fini(struct io *io);

/* Drops every operation without a callback. In a forked child all of them; else not those on files that somebody still works on. */
void io_drop_all(struct io *io, bool is_forked);

/* file.c: closes what an operation has opened that is told of to nobody. */
void io_file_drop(struct io_op *op, int res);

/* --- threads.c: all but what it says by the thread that owns io ---------------------------------------------------------- */

enum { IO_CLOSE_MS = 5000 }; /* for cancelled operations to come home */

void threads_add(struct io *io, struct io_file *file);
void threads_cancel(struct io *io, struct io_file *file); /* op->state is IO_ON_THREAD */
void threads_collect(struct io *io);                      /* what is done goes to io->done */
/* Cancels all, waits, and ends what was done. Operations whose threads do not come back are left. Any thread, when the owner has left. */
void threads_close(struct io *io);

/* Calls the callback of all that was finished when the call began. Returns how many. */
int io_deliver_done(struct io *io);

/* Sends of what io_send_file() asked for as much as there is room for. Returns what it is to complete with; -EAGAIN: not yet. */
int io_sendfile(struct io_op *op);

/* Announces sleep. False: there was a wake-up, do not sleep (and io_sleep_end() need not be called). */
static inline bool
io_sleep_begin(struct io *io)
{
    /* Sequentially consistent on both sides: either the waker sees sleeping, or we see woken. */
    atomic_store(&io->sleeping, true);
    if (!atomic_exchange(&io->woken, false))
        return true;
    atomic_store(&io->sleeping, false);
    return false;
}

/* Returns whether there was a wake-up. */
static inline bool
io_sleep_end(struct io *io)
{
    /* late: a write for nothing */
    atomic_store_explicit(&io->sleeping, false, memory_order_relaxed);
    /* An exchange, not a store: it has to see what was done before the wake-up that it takes back. */
    return atomic_exchange(&io->woken, false);
}

/* A look without sleep takes note of a wake-up too. */
static inline void
io_wake_seen(struct io *io)
{
    if (atomic_load_explicit(&io->woken, memory_order_relaxed))
        atomic_exchange(&io->woken, false);
}

/* One completion that is not the last; flags beside IO_MORE. */
static inline int
io_more_with(struct io *io, struct io_op *op, int res, unsigned flags)
{
    if (UNLIKELY(io->closing)) {
        if (op->kind == IO_KIND_ACCEPT && res >= 0)
            close(res);
        return 0;
    }
    op->fn(op, res, IO_MORE | flags);
    return 1;
}

static inline int
io_more(struct io *io, struct io_op *op, int res)
{
    return io_more_with(io, op, res, 0);
}

/* The last completion; op may be gone when this returns. */
static inline int
io_end(struct io *io, struct io_op *op, int res)
{
    list_del(&op->link);
    list_del(&op->all);
    op->armed = false;
    op->state = IO_IDLE;
    if (UNLIKELY(io->closing)) {
        if (op->kind == IO_KIND_ACCEPT && res >= 0)
            close(res);
        else if (op->kind == IO_KIND_FILE)
            io_file_drop(op, res);
        return 0;
    }
    op->fn(op, res, 0);
    return 1;
}

/* The last completion, from inside a call that must not call back. */
static inline void
io_finish(struct io *io, struct io_op *op, int res)
{
    list_del(&op->link);
    op->res = res;
    op->state = IO_DONE;
    list_add_tail(&io->done, &op->link);
}

#endif

/* file.c: bytes of regular files in a connection's output: opened by whoever queues them, sent by sendfile(2), or read where TLS makes
 * records of them. The loop never waits for a disk: before bytes go, the last one of the window is asked for with RWF_NOWAIT, and where
 * it is not in the page cache, a thread reads the window first, while the loop turns. (Pages that are dropped again while a slow client
 * takes a window of 1 MiB are waited for after all.) File systems that cannot be asked that way are
 * read as they are.
 *
 * Threads: the loop's, but for run(). There are DISK_THREADS_MAX at most, begun when something is to be read and all others are busy;
 *          they end at net_join(). They know no connection: a read that nobody waits for any more is thrown away when it comes back.
 * Owns:    the descriptor of each piece, until it is sent or dropped. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/thread.h"
#include "out.h"
#include "tls_private.h"

enum {
    DISK_THREADS_MAX = 4,
    DISK_STACK = 128 * 1024,
    DISK_PIECE = 64 * 1024, /* read at a time */
};

struct file_piece {
    struct list link;  /* in disk.wanted or disk.done */
    struct conn *conn; /* NULL: dropped while it was read */
    int fd;
    uint64_t at;   /* the next byte to send */
    size_t window; /* bytes that are read from there */
    bool is_loading;
    bool is_loaded; /* just now: not asked for again, as it may be gone already */
};

struct disk {
    pthread_mutex_t lock; /* of all but `loading` */
    pthread_cond_t is_wanted;
    struct list wanted, done;
    struct io *io; /* NULL: the loop has left */
    pthread_t threads[DISK_THREADS_MAX];
    unsigned threads_n, idle_n, wanted_n;
    unsigned loading; /* the loop's: wanted, being read or done */
    bool is_over;
};

/* --- the threads --------------------------------------------------------------------------------------------------------- */

/* The page cache keeps it; an error is found again by whoever sends. */
static void
load(const struct file_piece *f, char *scratch)
{
    for (size_t done = 0; done < f->window;) {
        size_t want = f->window - done < DISK_PIECE ? f->window - done : (size_t)DISK_PIECE;
        ssize_t n = pread(f->fd, scratch, want, (off_t)(f->at + done));
        if (n == 0 || (n < 0 && errno != EINTR))
            return;
        done += n > 0 ? (size_t)n : 0;
    }
}

static void *
run(void *p)
{
    struct disk *d = p;
    char scratch[DISK_PIECE];
    pthread_mutex_lock(&d->lock);
    for (;;) {
        d->idle_n++;
        while (!d->is_over && list_is_empty(&d->wanted))
            pthread_cond_wait(&d->is_wanted, &d->lock);
        d->idle_n--;
        if (d->is_over)
            break;
        struct file_piece *f = CONTAINER_OF(list_pop(&d->wanted), struct file_piece, link);
        d->wanted_n--;
        pthread_mutex_unlock(&d->lock);
        load(f, scratch);
        pthread_mutex_lock(&d->lock);
        list_add_tail(&d->done, &f->link);
        if (d->io != NULL)
            io_wake(d->io);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* Lock held. One more, where all are busy. */
static void
add_thread(struct disk *d)
{
    if (thread_start(&d->threads[d->threads_n], DISK_STACK, run, d) == 0)
        d->threads_n++;
}

static struct disk *
disk_of(struct net *net)
{
    struct disk *d = net->disk;
    if (d != NULL || (d = calloc(1, sizeof(*d))) == NULL)
        return d;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->is_wanted, NULL);
    list_init(&d->wanted);
    list_init(&d->done);
    d->io = net->io;
    return net->disk = d;
}

/* True: the connection is told when the window is in memory. False: nobody can read it but the loop. */
static bool
disk_load(struct conn *c, struct file_piece *f, size_t window)
{
    struct disk *d = disk_of(c->net);
    if (d == NULL)
        return false;
    pthread_mutex_lock(&d->lock);
    if (d->idle_n <= d->wanted_n && d->threads_n < DISK_THREADS_MAX)
        add_thread(d);
    bool is_taken = d->threads_n > 0;
    if (is_taken) {
        f->window = window;
        f->is_loading = true;
        d->loading++;
        d->wanted_n++;
        list_add_tail(&d->wanted, &f->link);
        pthread_cond_signal(&d->is_wanted);
    }
    pthread_mutex_unlock(&d->lock);
    return is_taken;
}

void
files_turn(struct net *net)
{
    struct disk *d = net->disk;
    if (LIKELY(d == NULL || d->loading == 0))
        return;
    struct list done;
    list_init(&done);
    pthread_mutex_lock(&d->lock);
    list_splice(&done, &d->done);
    pthread_mutex_unlock(&d->lock);
    for (struct list *node; (node = list_pop(&done)) != NULL; d->loading--) {
        struct file_piece *f = CONTAINER_OF(node, struct file_piece, link);
        f->is_loading = false;
        f->is_loaded = true;
        if (f->conn != NULL)
            conn_dirty(f->conn);
        else
            out_file_drop(f);
    }
}

void
net_leave_io(struct net *net)
{
    struct disk *d = net->disk;
    if (d == NULL)
        return;
    pthread_mutex_lock(&d->lock);
    d->io = NULL;
    pthread_mutex_unlock(&d->lock);
}

void
net_join(struct net *net)
{
    struct disk *d = net->disk;
    if (d == NULL)
        return;
    pthread_mutex_lock(&d->lock);
    d->is_over = true;
    d->io = NULL;
    pthread_cond_broadcast(&d->is_wanted);
    pthread_mutex_unlock(&d->lock);
    for (unsigned i = 0; i < d->threads_n; i++)
        pthread_join(d->threads[i], NULL);
    d->threads_n = 0;
}

void
files_fini(struct net *net)
{
    struct disk *d = net->disk;
    if (d == NULL)
        return;
    net_join(net);
    list_splice(&d->done, &d->wanted);
    for (struct list *node; (node = list_pop(&d->done)) != NULL;) {
        struct file_piece *f = CONTAINER_OF(node, struct file_piece, link);
        f->is_loading = false;
        out_file_drop(f);
    }
    pthread_cond_destroy(&d->is_wanted);
    pthread_mutex_destroy(&d->lock);
    free(d);
    net->disk = NULL;
}

/* --- pieces -------------------------------------------------------------------------------------------------------------- */

struct file_piece *
out_file_new(struct conn *c, int fd, uint64_t at)
{
    struct file_piece *f = malloc(sizeof(*f));
    if (f == NULL)
        return NULL;
    *f = (struct file_piece){ .conn = c, .fd = fd, .at = at };
    list_init(&f->link);
    return f;
}

void
out_file_drop(struct file_piece *f)
{
    if (f->is_loading) {
        f->conn = NULL;
        return;
    }
    close(f->fd);
    free(f);
}

void
out_file_advance(struct file_piece *f, size_t n)
{
    f->at += n;
    f->is_loaded = false;
}

enum file_state
out_file_send(struct conn *c, struct file_piece *f, size_t left)
{
    if (f->is_loading)
        return FILE_LOADING;
    size_t window = left < FILE_WINDOW ? left : (size_t)FILE_WINDOW;
    char last;
    struct iovec v = { &last, 1 };
    if (!f->is_loaded && preadv2(f->fd, &v, 1, (off_t)(f->at + window - 1), RWF_NOWAIT) < 0 &&
        errno == EAGAIN && disk_load(c, f, window))
        return FILE_LOADING;
    io_send_file(c->net->io, &c->send, c->fd, f->fd, (off_t)f->at, window);
    return FILE_READY;
}

ssize_t
out_file_read(struct conn *c, struct file_piece *f, char *to, size_t n)
{
    if (f->is_loading)
        return 0;
    struct iovec v = { to, n };
    ssize_t got = preadv2(f->fd, &v, 1, (off_t)f->at, f->is_loaded ? 0 : RWF_NOWAIT);
    if (got < 0 && errno == EAGAIN && disk_load(c, f, FILE_WINDOW))
        return 0;
    while (got < 0 && (errno == EAGAIN || errno == EOPNOTSUPP || errno == EINTR))
        got = pread(f->fd, to, n, (off_t)f->at);
    return got > 0 ? got : got == 0 ? -ENODATA : -errno;
}

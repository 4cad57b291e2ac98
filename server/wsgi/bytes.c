/* bytes.c: the bytes that pass between loop and thread: an answer's head and pieces one way, a body the other.
 *
 * The thread hands pieces over under the exchange's lock and posts once; the loop takes all that is there. A thread that is ahead of its
 * client waits, without the GIL, and without its slot where it takes long.
 *
 * Locks: the GIL is never asked for while the exchange's lock is held. */
#include "wsgi/wsgi.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { PIECE_ROOM = 1000 }; /* of a small piece: those that follow it soon are put there too */

/* --- pieces --------------------------------------------------------------------------------------------------------------------- */

struct piece *
piece_new(size_t room)
{
    struct piece *piece = malloc(sizeof(*piece) + room);
    if (piece == NULL)
        return NULL;
    *piece = (struct piece){ .p = (char *)(piece + 1), .room = room };
    return piece;
}

void
piece_free(struct piece *piece)
{
    if (piece->is_file)
        close(piece->fd);
    free(piece);
}

/* Lock held, perhaps no GIL: what Python owns goes the way of what was sent. */
static void
drop_piece(struct exchange *ex, struct piece *piece)
{
    if (piece == &ex->first)
        return;
    exchange_release(ex->set, piece);
}

static void
append(struct exchange *ex, struct piece *piece)
{
    piece->next = NULL;
    if (ex->out_first == NULL)
        ex->out_first = piece;
    else
        ex->out_last->next = piece;
    ex->out_last = piece;
    ex->out_bytes += piece->n;
}

static void
fill(struct piece *piece, const char *p, size_t n)
{
    memcpy((char *)piece->p + piece->n, p, n);
    piece->n += n;
    piece->room -= n;
}

/* A copy, behind what waits already. Lock held; 0 or -ENOMEM. */
static int
append_copy(struct exchange *ex, const char *p, size_t n)
{
    struct piece *piece = ex->out_first != NULL ? ex->out_last : NULL;
    if (piece != NULL && piece->room >= n) {
        fill(piece, p, n);
        ex->out_bytes += n;
        return 0;
    }
    if (!ex->first_is_used && ex->room_size - ex->room_n >= n) {
        piece = &ex->first;
        ex->first_is_used = true;
        *piece = (struct piece){ .p = ex->room + ex->room_n, .room = ex->room_size - ex->room_n };
        ex->room_n = ex->room_size;
    } else if ((piece = piece_new(n < PIECE_ROOM ? PIECE_ROOM : n)) == NULL) {
        return -ENOMEM;
    }
    fill(piece, p, n);
    append(ex, piece);
    return 0;
}

/* The object itself. GIL and lock held; 0 or -ENOMEM. */
static int
append_lent(struct exchange *ex, PyObject *bytes)
{
    struct piece *piece = piece_new(0);
    if (piece == NULL)
        return -ENOMEM;
    piece->bytes = Py_NewRef(bytes);
    piece->p = PyBytes_AS_STRING(bytes);
    piece->n = (size_t)PyBytes_GET_SIZE(bytes);
    append(ex, piece);
    return 0;
}

void
bytes_drop(struct exchange *ex)
{
    struct piece *piece = ex->out_first;
    ex->out_first = ex->out_last = NULL;
    ex->out_bytes = 0;
    while (piece != NULL) {
        struct piece *next = piece->next;
        drop_piece(ex, piece);
        piece = next;
    }
}

/* --- waiting ---------------------------------------------------------------------------------------------------------------------- */

void
bytes_wake(struct exchange *ex)
{
    if (ex->waiters > 0)
        pthread_cond_broadcast(&ex->changed);
}

/* Until is_over() says so. Lock held, given away meanwhile; no GIL. */
static void
wait_until(struct exchange *ex, bool (*is_over)(const struct exchange *ex))
{
    if (is_over(ex))
        return;
    ex->waiters++;
    bool has_slot = pthread_equal(ex->thread, pthread_self());
    int64_t until_ns = clock_ns() + EXCHANGE_PATIENCE_MS * NS_PER_MS;
    const struct timespec until = { .tv_sec = until_ns / NS_PER_S, .tv_nsec = until_ns % NS_PER_S };
    int err = 0;
    while (has_slot && err == 0 && !is_over(ex))
        err = pthread_cond_timedwait(&ex->changed, &ex->lock, &until);
    if (!is_over(ex)) {
        if (has_slot) {
            pthread_mutex_unlock(&ex->lock);
            lease_pause(ex->job.lease);
            pthread_mutex_lock(&ex->lock);
        }
        while (!is_over(ex))
            pthread_cond_wait(&ex->changed, &ex->lock);
        if (has_slot) {
            pthread_mutex_unlock(&ex->lock);
            lease_resume(ex->job.lease);
            pthread_mutex_lock(&ex->lock);
        }
    }
    ex->waiters--;
}

/* Posts unless a post is under way, which will see what was added. Lock held, and given away. */
static void
unlock_and_post(struct exchange *ex)
{
    bool must_post = !ex->is_posted;
    if (must_post) {
        ex->is_posted = true;
        exchange_take(ex); /* the post's */
    }
    pthread_mutex_unlock(&ex->lock);
    if (must_post)
        loop_post_io(ex->set->loop, &ex->post);
}

/* --- the answer: the thread's side --------------------------------------------------------------------------------------------------- */

static struct slice
put(char **to, struct slice s)
{
    char *p = *to;
    memcpy(p, s.p, s.n);
    *to = p + s.n;
    return (struct slice){ p, s.n };
}

/* Nothing of the request is cancelled any more. */
static void
is_over(struct exchange *ex)
{
    if (LIKELY(ex->at != NULL))
        lease_answered(ex->at);
}

/* What the application says of itself, where it is stopped as the worker leaves: 503. */
static bool
is_stopped(const struct exchange *ex)
{
    return ex->at != NULL && lease_why(ex->at) == SYNC_CANCEL_LEAVING;
}

int
exchange_start(struct exchange *ex, int status, struct slice reason,
               const struct http_header *headers, size_t n, uint64_t length)
{
    struct answer *a = &ex->answer;
    if (UNLIKELY(status >= 500 && status < 600) && is_stopped(ex)) {
        status = 503;
        reason = (struct slice){ 0 };
    }
    size_t table = (n + 1) * sizeof(*headers); /* one more: exchange_total() */
    size_t need = table + reason.n;
    for (size_t i = 0; i < n; i++)
        need += headers[i].name.n + headers[i].value.n;
    free(a->heap);
    a->heap = NULL;
    char *p = room_take(ex, need);
    if (p == NULL && (p = a->heap = malloc(need)) == NULL) {
        a->status = 0;
        return -ENOMEM;
    }
    a->headers = (struct http_header *)p;
    a->headers_n = (unsigned)n;
    a->status = status;
    a->length = length;
    p += table;
    a->reason = reason.p != NULL ? put(&p, reason) : reason;
    for (size_t i = 0; i < n; i++) {
        a->headers[i].name = put(&p, headers[i].name);
        a->headers[i].value = put(&p, headers[i].value);
    }
    return 0;
}

void
exchange_total(struct exchange *ex, uint64_t n)
{
    struct answer *a = &ex->answer;
    char *end = a->digits + sizeof(a->digits), *p = end;
    a->length = n;
    do
        *--p = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    a->headers[a->headers_n++] =
        (struct http_header){ SLICE("content-length"), { p, (size_t)(end - p) } };
}

static bool
is_writable(const struct exchange *ex)
{
    return !atomic_load(&ex->is_broken) && !ex->is_ended;
}

static bool
may_write(const struct exchange *ex)
{
    return (!ex->is_full && ex->out_bytes <= EXCHANGE_UNSENT_MAX) || ex->is_cancelled ||
           !is_writable(ex);
}

int
exchange_add(struct exchange *ex, PyObject *bytes)
{
    size_t n = (size_t)PyBytes_GET_SIZE(bytes);
    pthread_mutex_lock(&ex->lock);
    int err = !is_writable(ex) ? -EPIPE
              : n < EXCHANGE_COPY_MAX || !PyBytes_CheckExact(bytes)
                  ? append_copy(ex, PyBytes_AS_STRING(bytes), n)
                  : append_lent(ex, bytes);
    if (err == 0)
        ex->is_started = true;
    pthread_mutex_unlock(&ex->lock);
    return err;
}

/* Lock held, and given away; no GIL. */
static int
wait_for_client(struct exchange *ex)
{
    wait_until(ex, may_write);
    int err = is_writable(ex) && !ex->is_cancelled ? 0 : -EPIPE;
    pthread_mutex_unlock(&ex->lock);
    return err;
}

int
exchange_write(struct exchange *ex, PyObject *bytes)
{
    int err = exchange_add(ex, bytes);
    if (err < 0)
        return err;
    pthread_mutex_lock(&ex->lock);
    bool must_wait = !may_write(ex);
    unlock_and_post(ex);
    if (LIKELY(!must_wait))
        return 0;
    PyThreadState *state = PyEval_SaveThread();
    pthread_mutex_lock(&ex->lock);
    err = wait_for_client(ex);
    PyEval_RestoreThread(state);
    return err;
}

int
exchange_write_piece(struct exchange *ex, struct piece *piece, bool is_last)
{
    pthread_mutex_lock(&ex->lock);
    if (!is_writable(ex)) {
        pthread_mutex_unlock(&ex->lock);
        piece_free(piece);
        return -EPIPE;
    }
    append(ex, piece);
    ex->is_started = true;
    if (is_last) {
        pthread_mutex_unlock(&ex->lock);
        return 0;
    }
    unlock_and_post(ex);
    pthread_mutex_lock(&ex->lock);
    return wait_for_client(ex);
}

/* Lock held, and given away. */
static void
end(struct exchange *ex, bool later)
{
    bytes_wake(ex);    /* another thread of the application's may wait */
    if (ex->is_posted) /* it will be seen */
        ex->end_is_told = true;
    if (ex->end_is_told || later) {
        pthread_mutex_unlock(&ex->lock);
        return;
    }
    ex->end_is_told = true;
    unlock_and_post(ex);
}

void
exchange_end(struct exchange *ex, bool later)
{
    is_over(ex);
    pthread_mutex_lock(&ex->lock);
    if (!ex->is_ended)
        ex->is_started = ex->is_complete = ex->is_ended = true;
    end(ex, later);
}

void
exchange_fail(struct exchange *ex, bool later)
{
    is_over(ex);
    bool is_503 = is_stopped(ex);
    pthread_mutex_lock(&ex->lock);
    if (!ex->is_ended) {
        ex->is_failed = ex->is_ended = true;
        ex->is_stopped = is_503;
    }
    end(ex, later);
}

void
exchange_return(struct exchange *ex)
{
    pthread_mutex_lock(&ex->lock);
    if (!ex->is_ended)
        ex->is_returned = ex->is_ended = true;
    end(ex, true);
}

/* --- the answer: the loop's side ------------------------------------------------------------------------------------------------------ */

/* The head, where it is not started yet. False: nothing can be sent. */
static bool
start_answer(struct exchange *ex)
{
    struct h1 *h = ex->h;
    if (h1_is_started(h))
        return true;
    const struct answer *a = &ex->answer;
    size_t bad = 0;
    h1_called(h, ex->called_ns);
    enum http_write err = h1_start_as(h, a->status, a->reason, a->headers, a->headers_n, &bad);
    if (LIKELY(err == HTTP_OK))
        return true;
    if (err != HTTP_BROKEN) { /* h1_check_start() let it pass */
        log_about(LOG_ERROR, ex->req.id, "%s: the answer's head is refused (%d)", ex->label,
                  (int)err);
        h1_fail(h, 500);
    }
    return false;
}

/* Sends a list of pieces. Returns what the last one brought. */
static enum http_write
send_pieces(struct exchange *ex, struct piece *piece, bool is_complete)
{
    struct h1 *h = ex->h;
    enum http_write result = HTTP_OK;
    bool can_send = start_answer(ex);
    if (can_send && piece == NULL && is_complete)
        return h1_write(h, "", 0, NULL, true);
    while (piece != NULL) {
        struct piece *next = piece->next;
        if (!can_send) {
            drop_piece(ex, piece);
            result = HTTP_BROKEN;
        } else if (UNLIKELY(piece->is_file)) {
            piece->is_file = false;
            result = h1_write_file(h, piece->fd, piece->at, piece->n, is_complete && next == NULL);
            drop_piece(ex, piece);
        } else if (piece->bytes != NULL || piece->n >= EXCHANGE_COPY_MAX) {
            void *owner = piece == &ex->first ? NULL : (void *)((uintptr_t)piece | OWNER_TAG);
            result = h1_write(h, piece->p, piece->n, owner, is_complete && next == NULL);
        } else {
            result = h1_write(h, piece->p, piece->n, NULL, is_complete && next == NULL);
            drop_piece(ex, piece);
        }
        piece = next;
    }
    return result;
}

/* The thread waits for more of the body. Lock held. */
static void
ask_for_body(struct exchange *ex)
{
    struct h1 *h = ex->h;
    if (h1_body(h).n > 0 || h1_body_is_complete(h)) {
        ex->wants_body = false;
        if (bytes_receive(ex) < 0)
            atomic_store(&ex->is_gone, true);
    } else if (h1_is_gone(h)) {
        atomic_store(&ex->is_gone, true);
    } else {
        h1_want_body(h);
    }
}

enum bytes_next
bytes_to_client(struct exchange *ex)
{
    struct h1 *h = ex->h;
    pthread_mutex_lock(&ex->lock);
    ex->is_posted = false;
    struct piece *pieces = ex->out_first;
    const struct piece *last = pieces != NULL ? ex->out_last : NULL;
    ex->out_first = ex->out_last = NULL;
    ex->out_bytes = 0;
    bool is_complete = ex->is_complete, is_failed = ex->is_failed, is_ended = ex->is_ended;
    bool is_503 = ex->is_stopped;
    bool is_returned = ex->is_returned, wants_body = ex->wants_body;
    pthread_mutex_unlock(&ex->lock);
    enum http_write result = HTTP_OK;
    bool is_sending = is_complete && last != NULL && last->is_file;
    if (pieces != NULL || is_complete)
        result = send_pieces(ex, pieces, is_complete);
    if (is_ended) {
        if (UNLIKELY(is_returned))
            return BYTES_RETURN;
        if (is_failed)
            h1_fail(h, is_503 ? 503 : 500);
        h1_end_stream(h);
        return UNLIKELY(is_sending) && result == HTTP_FULL ? BYTES_SENDING : BYTES_END;
    }
    pthread_mutex_lock(&ex->lock);
    if (result == HTTP_FULL)
        ex->is_full = true;
    else if (result < 0)
        atomic_store(&ex->is_broken, true);
    if (wants_body)
        ask_for_body(ex);
    bytes_wake(ex);
    pthread_mutex_unlock(&ex->lock);
    return BYTES_MORE;
}

/* --- the body -------------------------------------------------------------------------------------------------------------------------- */

int
bytes_receive(struct exchange *ex)
{
    struct slice body = h1_body(ex->h);
    if (ex->in_start == ex->in_end)
        ex->in_start = ex->in_end = 0;
    if (body.n > ex->in_room - ex->in_end) {
        size_t room = ex->in_end + body.n;
        char *in = malloc(room);
        if (in == NULL) {
            log_about(LOG_ERROR, ex->req.id, "%s: no memory for its body", ex->label);
            return -ENOMEM;
        }
        if (ex->in_end > 0)
            memcpy(in, ex->in, ex->in_end);
        if (ex->in_is_heap)
            free(ex->in);
        ex->in = in;
        ex->in_room = room;
        ex->in_is_heap = true;
    }
    if (body.n > 0)
        memcpy(ex->in + ex->in_end, body.p, body.n);
    ex->in_end += body.n;
    ex->body_is_complete = h1_body_is_complete(ex->h);
    h1_body_consumed(ex->h);
    return 0;
}

static bool
may_read(const struct exchange *ex)
{
    return ex->in_start < ex->in_end || ex->body_is_complete || atomic_load(&ex->is_gone) ||
           ex->is_cancelled || ex->is_ended;
}

int
exchange_read(struct exchange *ex)
{
    pthread_mutex_lock(&ex->lock);
    if (!may_read(ex)) {
        ex->wants_body = true;
        unlock_and_post(ex);
        pthread_mutex_lock(&ex->lock);
        wait_until(ex, may_read);
    }
    int result = ex->in_start < ex->in_end ? 1 : ex->body_is_complete ? 0 : -EPIPE;
    if (result < 0)
        ex->wants_body = false; /* nobody looks at what comes */
    pthread_mutex_unlock(&ex->lock);
    return result;
}

/* exchange.c: one request between the loop and the thread that answers it: begun, handed over, over.
 *
 * An exchange is one piece of plain memory that holds a copy of the request's head, so that it outlives the connection's input block. Loop
 * and thread each have a reference, and so has a post on its way; whoever drops the last one gives the memory back.
 *
 * Runs on:  the loop's thread, any GIL state, unless said otherwise. run_job() and end_job(): a thread of the pool.
 * Always:   an exchange in set->all has an h1 and is not over; over() is the only way out, and calls h1_end(). h1_end() is never called
 *           from inside a callback of http/: those only note what happened, exchanges_turn() works it off. */
#include "wsgi/wsgi.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>

enum {
    ROOM_SIZE = 4 * 1024,   /* for the head's copy, and for most answers */
    ROOM_ANSWER = 2 * 1024, /* of a room made to measure: what the answer gets */
    BODY_IN_ROOM_MAX = 512,
    KEPT_MAX = 256, /* exchanges kept for reuse: 1.3 MiB */
    DATA_TAG = 1,   /* in h1_data(), which others fill too */
    /* sent Python objects wait no longer than this for a thread that has the GIL anyway */
    SENT_MS = 10,
};

#define TO(state) (1u << (state))

static const unsigned next_states[] = {
    [EXCHANGE_GATHERING] = TO(EXCHANGE_HANDED) | TO(EXCHANGE_REFUSED) | TO(EXCHANGE_OVER),
    [EXCHANGE_HANDED] = TO(EXCHANGE_RETURNED) | TO(EXCHANGE_SENDING) | TO(EXCHANGE_OVER),
    [EXCHANGE_SENDING] = TO(EXCHANGE_OVER),
    [EXCHANGE_REFUSED] = TO(EXCHANGE_OVER),
    [EXCHANGE_RETURNED] = TO(EXCHANGE_OVER),
    [EXCHANGE_OVER] = 0,
};

static void
to(struct exchange *ex, enum exchange_state state)
{
    ASSERT(next_states[ex->state] & TO(state));
    ex->state = state;
}

/* --- memory ------------------------------------------------------------------------------------------------------------------ */

static void
free_block(struct exchange *ex)
{
    pthread_cond_destroy(&ex->changed);
    pthread_mutex_destroy(&ex->lock);
    free(ex);
}

static void
empty_block(struct exchange *ex)
{
    bytes_drop(ex);
    free(ex->answer.heap);
    tls_about_give(ex->ends.tls);
    if (ex->in_is_heap)
        free(ex->in);
}

static void
keep_block(struct exchanges *s, struct exchange *ex)
{
    if (ex->room_size != ROOM_SIZE || s->kept_n >= KEPT_MAX) {
        free_block(ex);
        return;
    }
    ex->next = s->kept;
    s->kept = ex;
    s->kept_n++;
}

static void
keep_spent(struct exchanges *s)
{
    struct exchange *ex = atomic_exchange(&s->spent, NULL);
    while (ex != NULL) {
        struct exchange *next = ex->next;
        keep_block(s, ex);
        ex = next;
    }
}

static struct exchange *
new_block(size_t room)
{
    struct exchange *ex = malloc(sizeof(*ex) + room);
    if (ex == NULL)
        return NULL;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&ex->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&ex->lock, NULL);
    ex->room_size = room;
    return ex;
}

/* need: bytes of room that the head takes. */
static struct exchange *
take_block(struct exchanges *s, size_t need)
{
    struct exchange *ex;
    if (UNLIKELY(need > ROOM_SIZE - ROOM_ANSWER)) {
        ex = new_block(need + ROOM_ANSWER);
    } else {
        if (s->kept == NULL)
            keep_spent(s);
        ex = s->kept;
        if (LIKELY(ex != NULL)) {
            s->kept = ex->next;
            s->kept_n--;
        } else {
            ex = new_block(ROOM_SIZE);
        }
    }
    if (ex == NULL)
        return NULL;
    memset(&ex->set, 0, offsetof(struct exchange, room) - offsetof(struct exchange, set));
    ex->set = s;
    return ex;
}

void
exchange_take(struct exchange *ex)
{
    atomic_fetch_add_explicit(&ex->refs, 1, memory_order_relaxed);
}

/* True where that was the last. */
static bool
drop_refs(struct exchange *ex, unsigned n)
{
    return atomic_fetch_sub_explicit(&ex->refs, n, memory_order_acq_rel) == n;
}

/* Any thread: the loop takes it from there. */
void
exchange_give(struct exchange *ex)
{
    if (!drop_refs(ex, 1))
        return;
    struct exchanges *s = ex->set;
    empty_block(ex);
    ex->next = atomic_load(&s->spent);
    while (!atomic_compare_exchange_weak(&s->spent, &ex->next, ex))
        ;
}

static void
give_here(struct exchange *ex, unsigned n)
{
    if (!drop_refs(ex, n))
        return;
    empty_block(ex);
    keep_block(ex->set, ex);
}

void *
room_take(struct exchange *ex, size_t n)
{
    size_t at = (ex->room_n + 7) & ~(size_t)7;
    if (at > ex->room_size || n > ex->room_size - at)
        return NULL;
    ex->room_n = at + n;
    return ex->room + at;
}

/* --- both ends of a connection --------------------------------------------------------------------------------------------------- */

static size_t
address_text(const struct sockaddr_storage *addr, char *text, size_t room, uint16_t *port)
{
    *port = 0;
    if (addr->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)addr;
        *port = ntohs(in->sin_port);
        return inet_ntop(AF_INET, &in->sin_addr, text, (socklen_t)room) != NULL ? strlen(text) : 0;
    }
    if (addr->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)addr;
        *port = ntohs(in6->sin6_port);
        return inet_ntop(AF_INET6, &in6->sin6_addr, text, (socklen_t)room) != NULL ? strlen(text)
                                                                                   : 0;
    }
    if (addr->ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)addr;
        size_t n = strnlen(un->sun_path, sizeof(un->sun_path));
        memcpy(text, un->sun_path, n < room ? n : room);
        return n < room ? n : room;
    }
    return 0;
}

struct exchange_conn *
exchange_conn(struct h1 *h)
{
    void **slot = h1_conn_data(h);
    if (LIKELY(*slot != NULL))
        return *slot;
    char text[INET6_ADDRSTRLEN + sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct exchange_conn conn = { .kept = NULL };
    const struct sockaddr_storage *peer = h1_peer(h);
    if (peer->ss_family != AF_UNIX) /* the client of a unix socket has no address */
        conn.client_n = (uint8_t)address_text(peer, text, INET6_ADDRSTRLEN, &conn.client_port);
    const struct sockaddr_storage *local = h1_local(h);
    conn.is_unix = local->ss_family == AF_UNIX;
    conn.server_n = (uint8_t)address_text(local, text + conn.client_n, sizeof(text) - conn.client_n,
                                          &conn.server_port);
    struct exchange_conn *kept = malloc(sizeof(*kept) + conn.client_n + conn.server_n);
    if (kept == NULL)
        return NULL;
    if (h1_is_tls(h) && (conn.tls = h1_tls_about(h)) == NULL) {
        free(kept);
        return NULL;
    }
    *kept = conn;
    memcpy(kept->text, text, (size_t)conn.client_n + conn.server_n);
    *slot = kept;
    return kept;
}

bool
exchange_ends(struct h1 *h, struct exchange_ends *out, char client[INET6_ADDRSTRLEN])
{
    const struct exchange_conn *conn = exchange_conn(h);
    if (conn == NULL)
        return false;
    *out = (struct exchange_ends){
        .client = { conn->text, conn->client_n },
        .server = { conn->text + conn->client_n, conn->server_n },
        .client_port = conn->client_port,
        .server_port = conn->server_port,
        .is_unix = conn->is_unix,
        .tls = conn->tls,
    };
    const struct http_forwarded *f = &h1_request(h)->forwarded;
    if (f->client.family != AF_UNSPEC) {
        out->client = (struct slice){ client, net_address_text(&f->client, client) };
        out->client_port = f->client.port;
    }
    if (f->server.n > 0) {
        out->server = f->server;
        out->is_unix = false;
    }
    if (f->server_port != 0)
        out->server_port = f->server_port;
    return true;
}

void
exchange_conn_free(struct exchange_conn *conn)
{
    tls_about_give(conn->tls);
    free(conn);
}

/* --- the head ------------------------------------------------------------------------------------------------------------------- */

static struct slice
put(char **to, struct slice s)
{
    char *p = *to;
    memcpy(p, s.p, s.n);
    *to = p + s.n;
    return (struct slice){ p, s.n };
}

static struct exchange *
copy_head(struct exchanges *s, struct h1 *h)
{
    const struct http_request *r = h1_request(h);
    char client[INET6_ADDRSTRLEN];
    struct exchange_ends ends;
    if (!exchange_ends(h, &ends, client))
        return NULL;
    size_t table = r->headers_n * sizeof(struct http_header);
    size_t need = r->method.n + r->target.n + r->path.n + r->id.n + r->query.n + ends.client.n +
                  ends.server.n + r->forwarded.root_path.n;
    for (unsigned i = 0; i < r->headers_n; i++)
        need += r->headers[i].name.n + r->headers[i].value.n;
    struct exchange *ex = take_block(s, table + need + 8);
    if (ex == NULL)
        return NULL;
    ex->req = *r;
    ex->req.headers = room_take(ex, table);
    char *p = room_take(ex, need);
    ex->req.method = put(&p, r->method);
    ex->req.target = put(&p, r->target);
    ex->req.path = put(&p, r->path);
    ex->req.query = put(&p, r->query);
    ex->req.id = r->id.n > 0 ? put(&p, r->id) : (struct slice){ NULL, 0 };
    for (unsigned i = 0; i < r->headers_n; i++) {
        ex->req.headers[i].name = put(&p, r->headers[i].name);
        ex->req.headers[i].value = put(&p, r->headers[i].value);
    }
    if (r->forwarded.root_path.p != NULL)
        ex->req.forwarded.root_path = put(&p, r->forwarded.root_path);
    ex->req.forwarded.server = (struct slice){ NULL, 0 }; /* it is in ends */
    ex->ends = ends;
    tls_about_take(ends.tls);
    ex->ends.client = put(&p, ends.client);
    ex->ends.server = put(&p, ends.server);
    return ex;
}

/* "GET /path" for reports: cut, without the query, which may hold secrets. http/ lets only visible ASCII through. */
static void
label_fill(char *label, const struct http_request *r)
{
    size_t n = r->method.n < 16 ? r->method.n : 16;
    memcpy(label, r->method.p, n);
    label[n++] = ' ';
    size_t room = EXCHANGE_LABEL_SIZE - 1 - n, path = r->path.n < room ? r->path.n : room;
    memcpy(label + n, r->path.p, path);
    label[n + path] = '\0';
}

/* --- the end -------------------------------------------------------------------------------------------------------------------- */

static struct h1 *
leave(struct exchange *ex)
{
    struct h1 *h = ex->h;
    to(ex, EXCHANGE_OVER);
    list_del(&ex->link);
    list_del(&ex->work);
    list_del(&ex->late);
    list_del(&ex->user);
    *h1_data(h) = NULL;
    ex->h = NULL;
    live.cycles--;
    atomic_store(&ex->is_broken, true);
    atomic_store(&ex->is_gone, true);
    return h;
}

/* refs: the loop's, and others that end here too. */
static void
over(struct exchange *ex, unsigned refs)
{
    h1_end(leave(ex));
    give_here(ex, refs);
}

struct h1 *
exchange_part(struct exchange *ex)
{
    ASSERT(ex->state == EXCHANGE_RETURNED);
    struct h1 *h = leave(ex);
    give_here(ex, 1);
    return h;
}

static void
refuse(struct exchange *ex, int status)
{
    to(ex, EXCHANGE_REFUSED);
    ex->events = 0;
    h1_fail(ex->h, status);
    if (list_is_empty(&ex->work))
        list_add_tail(&ex->set->work, &ex->work);
}

/* --- the thread's side ------------------------------------------------------------------------------------------------------------ */

static __thread struct exchange *at_work; /* what this thread answers */

static void
run_job(struct sync_job *job)
{
    struct exchange *ex = CONTAINER_OF(job, struct exchange, job);
    ex->thread = pthread_self();
    ex->called_ns = clock_ns();
    at_work = ex;
    ex->serve(ex);
    at_work = NULL;
}

static void
on_limit(struct post *post, PyObject *loop)
{
    struct exchange *ex = CONTAINER_OF(post, struct exchange, limit_post);
    pthread_mutex_lock(&ex->lock);
    int64_t ms = ex->limit_ms;
    ex->is_limited = false;
    pthread_mutex_unlock(&ex->lock);
    if (LIKELY(loop != NULL && ex->h != NULL && ex->state == EXCHANGE_HANDED))
        h1_limit(ex->h, ms, "ringcorn.timeout()");
    exchange_give(ex);
}

bool
exchange_limit_here(int64_t ms)
{
    struct exchange *ex = at_work;
    if (ex == NULL)
        return false;
    pthread_mutex_lock(&ex->lock);
    bool must_post = !ex->is_limited;
    ex->limit_ms = ms;
    ex->is_limited = true;
    pthread_mutex_unlock(&ex->lock);
    if (must_post) {
        ex->limit_post.fn = on_limit;
        exchange_take(ex);
        loop_post_io(ex->set->loop, &ex->limit_post);
    }
    return true;
}

/* The thread is done with it: what it has not said yet, the loop learns now. */
static void
end_job(struct sync_job *job)
{
    struct exchange *ex = CONTAINER_OF(job, struct exchange, job);
    pthread_mutex_lock(&ex->lock);
    bool must_post = !ex->end_is_told && !ex->is_posted;
    ex->is_ended = ex->end_is_told = true;
    if (must_post)
        ex->is_posted = true;
    pthread_mutex_unlock(&ex->lock);
    struct exchanges *s = ex->set;
    if (must_post)
        loop_post_io(s->loop, &ex->post); /* with the thread's reference */
    else
        exchange_give(ex);
    if (atomic_fetch_sub(&s->at_threads, 1) == 1 && atomic_load(&s->tells_idle))
        loop_wake(s->loop);
}

void
exchange_posted(struct post *post, PyObject *loop)
{
    struct exchange *ex = CONTAINER_OF(post, struct exchange, post);
    if (LIKELY(loop != NULL && ex->h != NULL)) {
        enum bytes_next next = bytes_to_client(ex);
        if (LIKELY(next == BYTES_END)) {
            over(ex, 2); /* the loop's reference and the post's */
            return;
        }
        if (next == BYTES_SENDING)
            to(ex, EXCHANGE_SENDING);
        if (next == BYTES_RETURN) {
            to(ex, EXCHANGE_RETURNED);
            ex->set->returned(ex);
        }
        give_here(ex, 1);
        return;
    }
    /* Left behind at the worker's end. Without a loop this is the thread that posted. */
    pthread_mutex_lock(&ex->lock);
    ex->is_posted = false;
    bytes_drop(ex);
    bool is_returned = ex->is_returned;
    pthread_mutex_unlock(&ex->lock);
    if (is_returned && loop != NULL)
        ex->set->returned(ex);
    exchange_give(ex);
}

/* --- handing over ----------------------------------------------------------------------------------------------------------------- */

/* Overload comes in swarms: a line a second says it. */
static void
say_refused(struct exchange *ex, const char *why)
{
    struct exchanges *s = ex->set;
    int64_t now = clock_ns();
    s->refused++;
    if (now - s->refused_logged_ns < NS_PER_S && s->refused_logged_ns != 0)
        return;
    log_warning("%s: 503, %s (%u such request%s since the last line); requests are too slow for "
                "sync.threads, or something holds "
                "their threads",
                ex->label, why, s->refused, s->refused == 1 ? "" : "s");
    s->refused_logged_ns = now;
    s->refused = 0;
}

static void
drop_job(struct sync_job *job, enum sync_drop why)
{
    struct exchange *ex = CONTAINER_OF(job, struct exchange, job);
    (void)why; /* the crew has logged what is to be logged */
    atomic_fetch_sub(&ex->set->at_threads, 1);
    h1_fail(ex->h, 503);
    over(ex, 2); /* the thread's reference too: it will have none */
}

/* To a thread, or to its end in the next turn. */
static void
hand_over(struct exchange *ex)
{
    struct exchanges *s = ex->set;
    lease_init(&ex->lease, s->crew, ex->label);
    ex->at = &ex->lease;
    ex->job.run = run_job;
    ex->job.is_batched = true;
    ex->job.end = end_job;
    ex->job.drop = drop_job;
    ex->post.fn = exchange_posted;
    exchange_take(ex); /* the thread's */
    atomic_fetch_add(&s->at_threads, 1);
    int err = lease_submit(&ex->lease, &ex->job);
    lease_close(&ex->lease);
    if (LIKELY(err == 0)) {
        to(ex, EXCHANGE_HANDED);
        return;
    }
    atomic_fetch_sub(&s->at_threads, 1);
    drop_refs(ex, 1);
    if (err == -EAGAIN)
        say_refused(ex, "sync.queue is full");
    refuse(ex, 503);
}

/* A body that will be here soon, or is: memory for the whole of it. 0 or -ENOMEM. */
static int
gather_begin(struct exchange *ex)
{
    size_t n = (size_t)ex->req.content_length;
    if (n <= BODY_IN_ROOM_MAX && (ex->in = room_take(ex, n)) != NULL) {
        ex->in_room = n;
    } else {
        if ((ex->in = malloc(n)) == NULL)
            return -ENOMEM;
        ex->in_is_heap = true;
        ex->in_room = n;
    }
    return bytes_receive(ex);
}

/* A body that is awaited before a thread is asked for. */
static bool
is_gathered(struct h1 *h)
{
    const struct http_request *r = h1_request(h);
    return r->has_body && r->content_length <= EXCHANGE_BODY_WHOLE_MAX &&
           (!r->expects_continue || h1_body_is_complete(h));
}

bool
exchange_will_be_whole(struct h1 *h)
{
    return !h1_request(h)->has_body || is_gathered(h);
}

void
exchange_begin(struct exchanges *s, struct h1 *h, void (*serve)(struct exchange *ex))
{
    struct exchange *ex = copy_head(s, h);
    if (UNLIKELY(ex == NULL)) {
        log_error("no memory for a request: 503");
        h1_fail(h, 503);
        h1_end(h);
        return;
    }
    atomic_init(&ex->refs, 1);
    ex->serve = serve;
    ex->h = h;
    ex->begun_ns = s->http->net->now_ns;
    list_init(&ex->work);
    list_init(&ex->late);
    list_init(&ex->user);
    list_add_tail(&s->all, &ex->link);
    live.cycles++;
    *h1_data(h) = (void *)((uintptr_t)ex | DATA_TAG);
    label_fill(ex->label, &ex->req);
    ex->body_is_complete = !ex->req.has_body;
    bool gathers = is_gathered(h);
    int err = gathers ? gather_begin(ex) : 0;
    h1_head_done(h);
    if (UNLIKELY(err < 0))
        refuse(ex, 503);
    else if (gathers && !ex->body_is_complete)
        h1_want_body(h);
    else
        hand_over(ex);
}

/* --- what connections say ----------------------------------------------------------------------------------------------------------- */

struct exchange *
exchange_of(void *h1_data)
{
    uintptr_t data = (uintptr_t)h1_data;
    return data & DATA_TAG ? (struct exchange *)(data & ~(uintptr_t)DATA_TAG) : NULL;
}

void
exchange_event(struct exchange *ex, unsigned events)
{
    ex->events |= events;
    if (list_is_empty(&ex->work))
        list_add_tail(&ex->set->work, &ex->work);
}

/* True: no thread has begun it, and none will. Its reference is the caller's. */
static bool
withdraw(struct exchange *ex)
{
    if (!lease_withdraw(&ex->lease, &ex->job))
        return false;
    atomic_fetch_sub(&ex->set->at_threads, 1);
    return true;
}

static void
on_gone(struct exchange *ex, bool is_overdue)
{
    if (ex->state == EXCHANGE_GATHERING) {
        over(ex, 1);
        return;
    }
    if (withdraw(ex)) {
        if (is_overdue)
            log_warning("%s: %d, no thread had time for it within %s", ex->label, h1_overdue(ex->h),
                        h1_timeout_name(ex->h));
        else
            log_debug("%s: the client has gone before a thread had time for it", ex->label);
        over(ex, 2);
        return;
    }
    pthread_mutex_lock(&ex->lock);
    atomic_store(&ex->is_gone, true);
    if (h1_is_broken(ex->h))
        atomic_store(&ex->is_broken, true);
    bytes_wake(ex);
    pthread_mutex_unlock(&ex->lock);
    if (ex->state == EXCHANGE_HANDED && drivers_are_watched() && list_is_empty(&ex->late) &&
        conf_cancels(ex->set->http->conf, ex->req.method.p, ex->req.method.n))
        list_add_tail(&ex->set->late, &ex->late);
}

/* The worker leaves, and this is an event stream: its next piece is refused as if the client had gone, so that it is closed. */
static void
on_leave(struct exchange *ex)
{
    pthread_mutex_lock(&ex->lock);
    atomic_store(&ex->is_gone, true);
    atomic_store(&ex->is_broken, true);
    bytes_wake(ex);
    pthread_mutex_unlock(&ex->lock);
}

static void
on_body(struct exchange *ex)
{
    if (ex->state == EXCHANGE_GATHERING) {
        if (bytes_receive(ex) < 0)
            refuse(ex, 503);
        else if (ex->body_is_complete)
            hand_over(ex);
        else
            h1_want_body(ex->h);
        return;
    }
    pthread_mutex_lock(&ex->lock);
    if (ex->wants_body) {
        ex->wants_body = false;
        if (bytes_receive(ex) < 0)
            atomic_store(&ex->is_gone, true);
        bytes_wake(ex);
    }
    pthread_mutex_unlock(&ex->lock);
}

static void
on_drained(struct exchange *ex)
{
    pthread_mutex_lock(&ex->lock);
    ex->is_full = false;
    bytes_wake(ex);
    pthread_mutex_unlock(&ex->lock);
}

void
exchanges_turn(struct exchanges *s)
{
    struct list *node;
    while ((node = list_pop(&s->work)) != NULL) {
        struct exchange *ex = CONTAINER_OF(node, struct exchange, work);
        unsigned events = ex->events;
        ex->events = 0;
        if (ex->state == EXCHANGE_REFUSED) {
            over(ex, 1);
            continue;
        }
        if (ex->state == EXCHANGE_RETURNED) /* whoever has it looks for himself */
            continue;
        if (ex->state == EXCHANGE_SENDING) {
            if (events & HTTP_DRAINED || h1_is_broken(ex->h))
                over(ex, 1);
            continue;
        }
        if (events & HTTP_DRAINED && ex->state == EXCHANGE_HANDED)
            on_drained(ex);
        if (events & HTTP_BODY)
            on_body(ex);
        if (events & HTTP_LEAVE && ex->state == EXCHANGE_HANDED)
            on_leave(ex);
        if (events & HTTP_OVERDUE && ex->state == EXCHANGE_HANDED) {
            ex->is_overdue = true;
            list_del(&ex->late);
            list_add_tail(&s->late, &ex->late);
        }
        if (events & HTTP_GONE && ex->state != EXCHANGE_REFUSED)
            on_gone(ex, events & HTTP_OVERDUE);
    }
    if (UNLIKELY(s->http->draining))
        atomic_store(&s->tells_idle, true);
    if (LIKELY(atomic_load_explicit(&s->sent, memory_order_relaxed) == NULL))
        s->sent_ns = 0;
    else if (s->sent_ns == 0)
        s->sent_ns = clock_ns();
}

/* --- Python objects that were sent ------------------------------------------------------------------------------------------------ */

void
exchange_release(struct exchanges *s, void *owner)
{
    struct piece *piece = (struct piece *)((uintptr_t)owner & ~(uintptr_t)OWNER_TAG);
    if (piece->bytes == NULL) {
        piece_free(piece);
        return;
    }
    piece->next = atomic_load(&s->sent);
    while (!atomic_compare_exchange_weak(&s->sent, &piece->next, piece))
        ;
}

void
exchanges_collect(struct exchanges *s)
{
    if (LIKELY(atomic_load_explicit(&s->sent, memory_order_relaxed) == NULL))
        return;
    struct piece *piece = atomic_exchange(&s->sent, NULL);
    while (piece != NULL) {
        struct piece *next = piece->next;
        Py_DECREF(piece->bytes); /* exactly bytes: runs no Python */
        free(piece);
        piece = next;
    }
}

bool
exchanges_have_work(const struct exchanges *s)
{
    return (UNLIKELY(s->sent_ns != 0) && clock_ns() - s->sent_ns >= SENT_MS * NS_PER_MS) ||
           UNLIKELY(!list_is_empty(&s->late));
}

/* It took longer than it may, and http/ has told the client. The thread cannot be stopped, only its queries, and keeps its lease until it is
 * done; where it is, is said. */
static void
report_late(struct exchange *ex)
{
    PY_OWNED PyObject *overload = PyImport_ImportModule("ringcorn.overload");
    PY_OWNED PyObject *done =
        overload == NULL
            ? NULL
            : PyObject_CallMethod(overload, "overdue_thread", "sdiks", ex->label,
                                  (double)(ex->set->http->net->now_ns - ex->begun_ns) / NS_PER_S,
                                  h1_overdue(ex->h), (unsigned long)ex->thread,
                                  h1_timeout_name(ex->h));
    if (done == NULL) {
        log_warning("%s: it takes longer than it may", ex->label);
        PyErr_WriteUnraisable(overload);
    }
}

void
exchanges_run(struct exchanges *s)
{
    exchanges_collect(s);
    s->sent_ns = 0;
    for (struct list *node; UNLIKELY((node = list_pop(&s->late)) != NULL);) {
        struct exchange *ex = CONTAINER_OF(node, struct exchange, late);
        bool is_overdue = ex->is_overdue;
        if (is_overdue)
            report_late(ex);
        if (ex->at != NULL)
            lease_cancel(ex->at, is_overdue ? SYNC_CANCEL_OVERDUE : SYNC_CANCEL_GONE);
    }
}

int64_t
exchanges_next_ns(const struct exchanges *s)
{
    if (!list_is_empty(&s->work))
        return 0;
    return s->sent_ns != 0 ? s->sent_ns + SENT_MS * NS_PER_MS : -1;
}

/* --- the worker's end ----------------------------------------------------------------------------------------------------------------- */

static void
cancel(struct exchange *ex)
{
    if (ex->state == EXCHANGE_GATHERING) {
        h1_fail(ex->h, 503);
        over(ex, 1);
        return;
    }
    if (ex->state == EXCHANGE_REFUSED || ex->state == EXCHANGE_SENDING) {
        over(ex, 1);
        return;
    }
    if (ex->state == EXCHANGE_RETURNED) /* it goes on as whatever it was given back for */
        return;
    if (withdraw(ex)) {
        h1_fail(ex->h, 503);
        over(ex, 2);
        return;
    }
    pthread_mutex_lock(&ex->lock);
    atomic_store(&ex->is_cancelled, true);
    bytes_wake(ex);
    pthread_mutex_unlock(&ex->lock);
    if (ex->at != NULL)
        lease_cancel(ex->at, SYNC_CANCEL_LEAVING);
}

size_t
exchanges_cancel_all(struct exchanges *s)
{
    size_t n = 0;
    LIST_FOR_EACH_SAFE(node, &s->all) {
        cancel(CONTAINER_OF(node, struct exchange, link));
        n++;
    }
    return n;
}

void
exchanges_abandon(struct exchanges *s)
{
    exchanges_cancel_all(s);
    while (!list_is_empty(&s->all)) {
        struct exchange *ex = CONTAINER_OF(s->all.next, struct exchange, link);
        log_about(LOG_WARNING, ex->req.id, "%s: left behind, its thread did not end", ex->label);
        h1_fail(ex->h, 503);
        over(ex, 1);
    }
}

size_t
exchanges_report_signal_safe(const struct exchanges *s, size_t max)
{
    int64_t now = clock_ns(); /* clock_gettime is async-signal-safe */
    LIST_FOR_EACH(node, &s->all) {
        const struct exchange *ex = CONTAINER_OF(node, struct exchange, link);
        if (max-- == 0) {
            log_signal_safe("in hand: and more");
            return 0;
        }
        char line[EXCHANGE_LABEL_SIZE + 48] = "in hand for ";
        size_t n = strlen(line), k = 0;
        char digits[24];
        for (int64_t sec = (now - ex->begun_ns) / NS_PER_S; k == 0 || sec > 0; sec /= 10)
            digits[k++] = (char)('0' + sec % 10);
        while (k > 0)
            line[n++] = digits[--k];
        memcpy(line + n, " s: ", 4);
        strcpy(line + n + 4, ex->label);
        log_signal_safe(line);
    }
    return max;
}

int
exchanges_in_hand(const struct exchanges *s, PyObject *list)
{
    LIST_FOR_EACH(node, &s->all) {
        const struct exchange *ex = CONTAINER_OF(node, struct exchange, link);
        PY_OWNED PyObject *text = PyUnicode_FromString(ex->label); /* ASCII */
        if (text == NULL || PyList_Append(list, text) < 0)
            return -1;
    }
    return 0;
}

/* --- the set -------------------------------------------------------------------------------------------------------------------------- */

void
exchanges_init(struct exchanges *s, struct http_app *http)
{
    *s = (struct exchanges){ .http = http };
    list_init(&s->all);
    list_init(&s->work);
    list_init(&s->late);
}

int
exchanges_open(struct exchanges *s, PyObject *loop, PyObject *pool)
{
    /* A pool that has made a lease takes part in the loop's turns: it starts threads there. */
    PY_OWNED PyObject *lease = PyObject_CallMethod(pool, "lease", NULL);
    if (lease == NULL)
        return -1;
    s->crew = pool_crew(pool);
    Py_XSETREF(s->loop, Py_NewRef(loop));
    Py_XSETREF(s->pool, Py_NewRef(pool));
    return 0;
}

bool
exchanges_are_at_threads(const struct exchanges *s)
{
    return atomic_load(&s->at_threads) > 0;
}

void
exchanges_fini(struct exchanges *s)
{
    exchanges_collect(s);
    keep_spent(s);
    for (struct exchange *ex; (ex = s->kept) != NULL;) {
        s->kept = ex->next;
        free_block(ex);
    }
    s->kept_n = 0;
    /* The loop's reference stays: a thread that was left behind may post to it yet. */
    Py_CLEAR(s->pool);
}

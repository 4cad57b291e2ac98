/* answer.c: the thread that answers what ringcornctl asks of this worker.
 *
 * Requests are lists of the loop's, which change without the GIL too: the loop is asked for a copy, in its I/O phase. Where it does not turn it is
 * inside Python, and while this thread has the GIL the lists stand still. Tasks and threads are Python's, so ringcorn.live tells of them.
 *
 * Runs on:  its own thread, "ringcorn-answer"; signals are blocked there.
 * Owns:     the end of the socket. Of a server that goes (answer_attach(NULL, ...)) nothing is touched any more: under a lock. */
#include "worker/answer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "base/thread.h"
#include "base/json.h"
#include "worker/worker.h"

enum {
    LOOP_MS = 250, /* what the loop gets to answer by itself */
    REQUESTS_MAX = 10000,
};

/* What is asked of the loop: it, or we, fill it in once. Counted: the loop may come to it when nobody waits any more. */
struct snapshot {
    struct post post;
    pthread_mutex_t lock;
    pthread_cond_t done;
    unsigned refs;
    bool is_taken; /* by whoever fills it in */
    bool is_done;
    struct buf out;
};

static struct {
    int fd, stop; /* stop: an eventfd */
    pthread_t thread;
    bool is_running;
    pthread_mutex_t lock; /* of what follows */
    PyObject *loop;       /* new */
    struct asgi *asgi;
    struct exchanges *exchanges;
} a = { .fd = -1, .stop = -1, .lock = PTHREAD_MUTEX_INITIALIZER };

/* --- requests in hand ---------------------------------------------------------------------------- */

static void
put_request(struct json *j, const char *label, const char *kind, int64_t age_ns, const char *state,
            unsigned long ident)
{
    json_begin(j, '{');
    json_key(j, "request"), json_string(j, label);
    json_key(j, "kind"), json_string(j, kind);
    json_key(j, "age_s"), json_real(j, (double)age_ns / NS_PER_S);
    json_key(j, "state"), json_string(j, state);
    json_key(j, "thread");
    if (ident != 0)
        json_int(j, (int64_t)ident);
    else
        json_null(j);
    json_end(j, '}');
}

/* By what it has suspended in, if in anything of ours. */
static const char *
state_of(const struct cycle *cycle, unsigned long *ident)
{
    const char *stand =
        cycle->lease != NULL ? lease_stand(lease_inside(cycle->lease), ident) : NULL;
    if (stand != NULL && strcmp(stand, "running") == 0)
        return "on a thread";
    if (stand != NULL && strcmp(stand, "waiting") == 0)
        return "waits for a thread";
    /* No further than this: the collector may free what is in the list on any thread. */
    return list_is_empty(&cycle->waits) ? "in the application" : "waits for its client";
}

/* On the loop's thread in its I/O phase, or with the GIL while it is inside Python. */
static void
put_requests(struct json *j, const struct asgi *asgi, const struct exchanges *exchanges)
{
    int64_t now_ns = clock_ns();
    unsigned left = REQUESTS_MAX;
    json_begin(j, '[');
    for (struct list *node = asgi->cycles.next; node != &asgi->cycles && left > 0;
         node = node->next, left--) {
        const struct cycle *cycle = CONTAINER_OF(node, struct cycle, link);
        unsigned long ident = 0;
        const char *state = state_of(cycle, &ident);
        put_request(j, cycle_label(cycle), cycle->is_websocket ? "websocket" : "async",
                    now_ns - cycle->begun_ns, state, ident);
    }
    for (struct list *node = exchanges->all.next; node != &exchanges->all && left > 0;
         node = node->next, left--) {
        struct exchange *ex = CONTAINER_OF(node, struct exchange, link);
        unsigned long ident = 0;
        const char *stand = ex->state == EXCHANGE_HANDED ? lease_stand(&ex->lease, &ident) : NULL;
        bool is_waiting = stand != NULL && strcmp(stand, "waiting") == 0;
        put_request(j, ex->label, "sync", now_ns - ex->begun_ns,
                    ex->state == EXCHANGE_GATHERING ? "receives the body"
                    : is_waiting                    ? "waits for a thread"
                    : ex->state == EXCHANGE_HANDED  ? "on a thread"
                                                    : "ends",
                    ident);
    }
    json_end(j, ']');
}

static void
snapshot_drop(struct snapshot *s)
{
    pthread_mutex_lock(&s->lock);
    bool is_last = --s->refs == 0;
    pthread_mutex_unlock(&s->lock);
    if (!is_last)
        return;
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->done);
    buf_free(&s->out);
    free(s);
}

/* False: somebody else does. */
static bool
snapshot_take(struct snapshot *s)
{
    pthread_mutex_lock(&s->lock);
    bool is_ours = !s->is_taken;
    s->is_taken = true;
    pthread_mutex_unlock(&s->lock);
    return is_ours;
}

static void
snapshot_finish(struct snapshot *s)
{
    pthread_mutex_lock(&s->lock);
    s->is_done = true;
    pthread_cond_signal(&s->done);
    pthread_mutex_unlock(&s->lock);
}

/* Phase 2 of the loop. A loop that is closed tells so by loop NULL. */
static void
on_loop(struct post *post, PyObject *loop)
{
    struct snapshot *s = CONTAINER_OF(post, struct snapshot, post);
    if (snapshot_take(s)) {
        struct json j = json_into(&s->out);
        if (loop != NULL && a.asgi != NULL) /* detached on this very thread */
            put_requests(&j, a.asgi, a.exchanges);
        snapshot_finish(s);
    }
    snapshot_drop(s);
}

/* True: it is done, within ms; ms < 0: whenever. */
static bool
snapshot_wait(struct snapshot *s, int ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    int64_t ns = until.tv_nsec + (ms < 0 ? 0 : ms) * NS_PER_MS;
    until.tv_sec += ns / NS_PER_S;
    until.tv_nsec = ns % NS_PER_S;
    pthread_mutex_lock(&s->lock);
    int err = 0;
    while (!s->is_done && err == 0)
        err = ms < 0 ? pthread_cond_wait(&s->done, &s->lock)
                     : pthread_cond_timedwait(&s->done, &s->lock, &until);
    bool is_done = s->is_done;
    pthread_mutex_unlock(&s->lock);
    return is_done;
}

static void
ask_loop(struct buf *out)
{
    struct snapshot *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return;
    s->refs = 2;
    s->post.fn = on_loop;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->done, NULL);
    pthread_mutex_lock(&a.lock);
    bool is_served = a.loop != NULL;
    if (is_served)
        loop_post_io(a.loop, &s->post);
    pthread_mutex_unlock(&a.lock);
    if (!is_served) {
        s->refs = 1;
    } else if (!snapshot_wait(s, LOOP_MS)) {
        PyGILState_STATE gil = PyGILState_Ensure();
        pthread_mutex_lock(&a.lock);
        /* Not inside Python: it turns just now, so it will come to the post. */
        bool is_ours = a.loop != NULL && !loop_is_released(a.loop) && snapshot_take(s);
        if (is_ours) {
            struct json j = json_into(&s->out);
            put_requests(&j, a.asgi, a.exchanges);
        }
        pthread_mutex_unlock(&a.lock);
        PyGILState_Release(gil);
        if (is_ours)
            snapshot_finish(s);
        else
            (void)snapshot_wait(s, 4 * LOOP_MS);
    }
    pthread_mutex_lock(&s->lock);
    if (s->is_done)
        (void)buf_append(out, s->out.p, s->out.n);
    pthread_mutex_unlock(&s->lock);
    snapshot_drop(s);
}

/* --- what Python tells ------------------------------------------------------------------------------ */

/* ringcorn.live.NAME() -> a str of JSON. */
static void
ask_python(const char *name, struct buf *out)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    { /* owned locals end with the GIL held */
        PY_OWNED PyObject *module = PyImport_ImportModule("ringcorn.live");
        PY_OWNED PyObject *text = module != NULL ? PyObject_CallMethod(module, name, NULL) : NULL;
        Py_ssize_t n;
        const char *p = text != NULL ? PyUnicode_AsUTF8AndSize(text, &n) : NULL;
        if (p == NULL)
            PyErr_WriteUnraisable(module);
        else
            (void)buf_append(out, p, (size_t)n);
    }
    PyGILState_Release(gil);
}

/* 0 = debug ... 3 = error: Python's loggers follow. */
static void
set_log_level(int level)
{
    log_set_level((enum log_level)level);
    PyGILState_STATE gil = PyGILState_Ensure();
    {
        PY_OWNED PyObject *log = PyImport_ImportModule("ringcorn.log");
        PY_OWNED PyObject *done =
            log != NULL ? PyObject_CallMethod(log, "set_level", "i", level) : NULL;
        if (done == NULL)
            PyErr_WriteUnraisable(log);
    }
    PyGILState_Release(gil);
}

/* --- the thread -------------------------------------------------------------------------------------- */

static void
write_all(int fd, const struct buf *b)
{
    for (size_t done = 0; done < b->n;) {
        ssize_t n = write(fd, b->p + done, b->n - done);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EINTR)
            return;
    }
}

static void
answer(const struct control_msg *msg, int to)
{
    FD_OWNED int fd = to;
    BUF_OWNED struct buf out = { 0 };
    switch ((enum control_kind)msg->kind) {
    case CONTROL_ASK_REQUESTS:
        ask_loop(&out);
        break;
    case CONTROL_ASK_TASKS:
        ask_python("tasks", &out);
        break;
    case CONTROL_ASK_THREADS:
        ask_python("threads", &out);
        break;
    case CONTROL_ASK_SERVICES:
        ask_python("services", &out);
        break;
    case CONTROL_ASK_BLOCKS:
        ask_python("blocks", &out);
        break;
    case CONTROL_LOG_LEVEL:
        if (msg->id >= LOG_DEBUG && msg->id <= LOG_ERROR)
            set_log_level(msg->id);
        return;
    default:
        return;
    }
    if (fd >= 0)
        write_all(fd, &out);
    (void)control_send(a.fd, CONTROL_ANSWER, msg->id, -1);
}

static void *
run(void *unused)
{
    (void)prctl(PR_SET_NAME, "ringcorn-answer");
    for (;;) {
        struct pollfd fds[] = { { .fd = a.fd, .events = POLLIN },
                                { .fd = a.stop, .events = POLLIN } };
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return unused;
        if (fds[1].revents != 0)
            return unused;
        struct control_msg msg;
        int fd, err;
        while ((err = control_recv(a.fd, &msg, &fd)) == 0)
            answer(&msg, fd);
        if (err != -EAGAIN && err != -EBADMSG)
            return unused; /* the master is gone; the loop sees that too */
    }
}

void
answer_start(int asks)
{
    if (asks < 0)
        return;
    a.fd = asks;
    a.stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = a.stop < 0 ? errno : thread_start(&a.thread, 0, run, NULL);
    a.is_running = err == 0;
    if (err != 0)
        log_warning("this worker cannot answer ringcornctl: %s", strerror(err));
}

void
answer_attach(PyObject *loop, struct asgi *asgi, struct exchanges *exchanges)
{
    pthread_mutex_lock(&a.lock);
    PyObject *old = a.loop;
    a.loop = Py_XNewRef(loop);
    a.asgi = asgi;
    a.exchanges = exchanges;
    pthread_mutex_unlock(&a.lock);
    Py_XDECREF(old);
}

void
answer_stop(void)
{
    if (a.is_running) {
        uint64_t one = 1;
        ssize_t n = write(a.stop, &one, sizeof(one));
        (void)n; /* an eventfd takes it */
        Py_BEGIN_ALLOW_THREADS pthread_join(a.thread, NULL);
        Py_END_ALLOW_THREADS
    }
    answer_forget();
}

void
answer_forget(void)
{
    a.is_running = false;
    if (a.fd >= 0)
        close(fd_take(&a.fd));
    if (a.stop >= 0)
        close(fd_take(&a.stop));
}

/* worker.c: one worker process, built out of the lower folders and taken down again.
 *
 *   worker_run() ─> embed_start() ─> ringcorn.worker.run() ─> attach ─> serve ─> (requests) ─> drained ─> detach ─> embed_stop()
 *   worker_preload() ─> embed_start() ─> ringcorn.preload.run() ─> fork_workers() ─> in each: ringcorn.worker.run() ─> ... ─> embed_stop()
 *   worker_check() ─> embed_start() ─> ringcorn.check.run() ─> embed_stop()
 *
 * Runs on:  the process's main thread. Without the GIL: on_control() and everything called from the loop's I/O phase.
 * Owns:     struct worker, the one instance of everything per process. */
#include "asgi/asgi.h"

#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/random.h>

#include "base/shake.h"
#include "guard/guard.h"
#include "metrics/metrics.h"
#include "py/embed.h"
#include "worker/answer.h"
#include "worker/preload.h"
#include "worker/signals.h"
#include "wsgi/wsgi.h"

enum { WORKER_LISTENERS_MAX = 1024 };

static PyObject *options_new(const struct conf *conf);

enum worker_event { EVENT_DRAIN = 1, EVENT_QUIT = 2, EVENT_DRAINED = 4 };

static struct worker {
    const struct worker_args *args;
    PyObject *loop;     /* new; NULL before attach and after detach */
    PyObject *callback; /* new; of notify() */
    struct io *io;      /* the loop's */
    struct net net;
    struct conn_ops conn_ops;
    struct asgi asgi; /* the application is one of the two; asgi has the struct http_app of both */
    struct wsgi wsgi;
    struct shake shake; /* where conf has a seed */
    struct io_op control;
    struct {
        int32_t id;
        struct listener *listener;
    } listeners[WORKER_LISTENERS_MAX];
    size_t listeners_n;
    uint64_t requests_max; /* then it asks to be replaced */
    unsigned events;       /* enum worker_event, to be told in the Python phase */
    enum control_why why;  /* it drains */
    uint64_t services; /* a bit for each that is to be run here, to be told in the Python phase */
    PyObject *access;  /* new; of access_to(); NULL = nobody */
    struct buf access_lines; /* for it, each with a NUL behind it */
    bool is_attached, is_serving, is_draining, is_quitting, drained_is_told;
    bool is_preload; /* this process imports the application and forks workers */
} w;

/* --- listening and the control socket (I/O phase: no Python) -------------------------------------------------------- */

/* Where it is in w.listeners; listeners_n: nowhere. */
static size_t
listener_at(int32_t id)
{
    size_t i = 0;
    while (i < w.listeners_n && w.listeners[i].id != id)
        i++;
    return i;
}

static void
listen_on(int32_t id, int fd, bool is_tls)
{
    FD_OWNED int owned = fd; /* listener_open() makes its own copy */
    if (fd < 0 || w.is_draining)
        return;
    if (is_tls && w.net.tls == NULL)
        return; /* an older configuration is ours: the newer worker beside us accepts */
    if (listener_at(id) < w.listeners_n)
        return; /* told twice */
    struct listener *l =
        w.listeners_n < WORKER_LISTENERS_MAX ? listener_open(&w.net, owned, is_tls) : NULL;
    if (l == NULL) {
        log_error("cannot accept from listening socket %d: out of memory or descriptors", (int)id);
        return;
    }
    w.listeners[w.listeners_n].id = id;
    w.listeners[w.listeners_n++].listener = l;
    int err = control_send(w.args->control, CONTROL_LISTENING, id, -1);
    if (err < 0)
        log_warning("the master cannot be told: %s", strerror(-err));
}

static void
unlisten(size_t i)
{
    listener_close(w.listeners[i].listener);
    w.listeners[i] = w.listeners[--w.listeners_n];
}

static void
unlisten_id(int32_t id)
{
    size_t i = listener_at(id);
    if (i == w.listeners_n)
        return;
    listener_give_back(w.listeners[i].listener);
    w.listeners[i] = w.listeners[--w.listeners_n];
    http_leave_guests(&w.asgi.http);
}

static void
have_alone(int32_t id)
{
    size_t i = listener_at(id);
    if (i < w.listeners_n)
        listener_alone(w.listeners[i].listener);
}

static void
drain(enum worker_event how, enum control_why why)
{
    if (how == EVENT_QUIT && !w.is_quitting) {
        w.is_quitting = true;
        w.events |= EVENT_QUIT;
    }
    if (w.is_draining)
        return;
    w.is_draining = true;
    w.why = why;
    w.events |= EVENT_DRAIN;
    while (w.listeners_n > 0)
        unlisten(w.listeners_n - 1);
    http_drain(&w.asgi.http);
}

/* Nobody empties our ring any more. */
static void
write_logs_alone(void)
{
    struct log_ring *ring = log_set_ring(NULL, -1);
    if (ring != NULL)
        log_empty_ring(ring, w.args->access_fd);
}

static void
close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* New connections get what the master has read; those that are open keep what they have. */
static void
take_certs(int fd)
{
    const struct conf *conf = w.args->conf;
    struct tls_files files;
    FD_OWNED int owned = fd;
    int err = fd < 0 ? -EMFILE : tls_files_unpack(owned, &files);
    if (err < 0) {
        log_error("new certificates cannot be taken: %s; the old ones stay", strerror(-err));
        return;
    }
    struct tls_set *set = tls_set_new(conf, &files, w.args->tickets, tls_say_error, false);
    tls_files_free(&files);
    if (set != NULL)
        net_set_tls(&w.net, set, conf->limit_handshakes, conf->timeout_handshake_ms * NS_PER_MS);
}

static void
on_control(struct io_op *op, int res, unsigned flags)
{
    struct control_msg msg;
    int fd, err = res < 0 ? res : 0;
    while (err == 0 && (err = control_recv(w.args->control, &msg, &fd)) == 0) {
        switch ((enum control_kind)msg.kind) {
        case CONTROL_LISTEN:
            listen_on(msg.id, fd, false);
            break;
        case CONTROL_LISTEN_TLS:
            listen_on(msg.id, fd, true);
            break;
        case CONTROL_CERTS:
            take_certs(fd);
            break;
        case CONTROL_UNLISTEN:
            unlisten_id(msg.id);
            break;
        case CONTROL_ALONE:
            have_alone(msg.id);
            break;
        case CONTROL_UNREADY:
            w.asgi.http.is_unready = true;
            break;
        case CONTROL_DRAIN:
            drain(EVENT_DRAIN, (enum control_why)msg.id);
            break;
        case CONTROL_QUIT:
            drain(EVENT_QUIT, (enum control_why)msg.id);
            break;
        case CONTROL_SERVICE:
            if (msg.id >= 0 && msg.id < CONF_SERVICES_MAX)
                w.services |= (uint64_t)1 << msg.id;
            break;
        case CONTROL_PING:
            /* a full socket has others */
            (void)control_send(w.args->control, CONTROL_PONG, msg.id, -1);
            break;
        case CONTROL_REOPEN:
            /* standard error stays open in children of the application, the access log does not */
            if (fd >= 0 && dup3(fd, msg.id, msg.id > STDERR_FILENO ? O_CLOEXEC : 0) < 0 &&
                errno != EINVAL)
                log_error("a reopened log cannot be taken: %s", strerror(errno));
            close_fd(fd);
            break;
        case CONTROL_FORK:
            break; /* to the process that has forked this one */
        case CONTROL_READY:
        case CONTROL_FORKED:
        case CONTROL_LISTENING:
        case CONTROL_REPLACE:
        case CONTROL_SERVED:
        case CONTROL_SERVICE_STOPPED:
        case CONTROL_SERVICE_ENDED:
        case CONTROL_DRAINED:
        case CONTROL_PONG:
        case CONTROL_ANSWER:
            break; /* the worker's own words */
        case CONTROL_ASK_REQUESTS:
        case CONTROL_ASK_TASKS:
        case CONTROL_ASK_THREADS:
        case CONTROL_ASK_SERVICES:
        case CONTROL_ASK_BLOCKS:
        case CONTROL_LOG_LEVEL:
            break; /* on the other socket: answer.c */
        }
    }
    if (err == -EAGAIN || err == -ECANCELED)
        return;
    write_logs_alone();
    if (!w.is_draining)
        log_warning("the master is gone (%s): this worker answers what it has and ends",
                    strerror(-err));
    drain(EVENT_DRAIN, CONTROL_WHY_STOP);
    if (flags & IO_MORE)
        io_cancel(w.io, op);
}

/* Somebody sent this worker SIGTERM: it goes when its successor accepts. */
static void
ask_to_go(void)
{
    if (!w.is_serving ||
        control_send(w.args->control, CONTROL_REPLACE, (int32_t)w.args->slot, -1) < 0)
        drain(EVENT_DRAIN, CONTROL_WHY_STOP);
}

/* Fewer than UINT64_MAX in all. */
static uint64_t
draw_requests_max(const struct conf *conf)
{
    uint32_t random = 0;
    if (conf->recycle_max_requests == 0)
        return UINT64_MAX;
    if (conf->recycle_jitter > 0 && getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
        random = (uint32_t)clock_ns();
    return (uint64_t)conf->recycle_max_requests + random % ((uint64_t)conf->recycle_jitter + 1);
}

/* It has served what it may. A socket that is full is tried again at the next turn. */
static void
say_served(void)
{
    uint64_t n = w.asgi.http.begun;
    int32_t id = n < INT32_MAX ? (int32_t)n : INT32_MAX;
    if (control_send(w.args->control, CONTROL_SERVED, id, -1) == 0)
        w.requests_max = UINT64_MAX;
}

/* --- the server's part of a turn (struct loop_client) ---------------------------------------------------------------- */

static void
on_turn(void *self)
{
    (void)self;
    net_turn(&w.net);
    http_turn(&w.asgi.http);
    exchanges_turn(&w.wsgi.exchanges);
    if (signals_take_term())
        ask_to_go();
    if (UNLIKELY(w.asgi.http.begun >= w.requests_max) && !w.is_draining)
        say_served();
    /* A quick end does not wait for clients that linger. */
    if (w.is_draining && !w.drained_is_told && w.asgi.http.in_hand == 0 &&
        list_is_empty(&w.net.listeners) && /* what was still accepting may bring connections */
        !exchanges_are_at_threads(&w.wsgi.exchanges) && (w.net.conns_n == 0 || w.is_quitting)) {
        w.drained_is_told = true;
        guard_serving(false);
        w.events |= EVENT_DRAINED;
    }
}

static bool
on_has_work(void *self)
{
    (void)self;
    return w.events != 0 || w.services != 0 || w.access_lines.n > 0 || asgi_has_work(&w.asgi) ||
           exchanges_have_work(&w.wsgi.exchanges);
}

/* To the handlers of ringcorn.access; what they raise is theirs (logging prints it). */
static void
tell_access_lines(void)
{
    struct buf lines = w.access_lines;
    w.access_lines = (struct buf){ 0 };
    for (size_t at = 0; at < lines.n;) {
        size_t n = strlen(lines.p + at);
        PY_OWNED PyObject *text = PyUnicode_DecodeUTF8(lines.p + at, (Py_ssize_t)n, "replace");
        PY_OWNED PyObject *done = text == NULL ? NULL : PyObject_CallOneArg(w.access, text);
        if (done == NULL)
            PyErr_WriteUnraisable(w.access);
        at += n + 1;
    }
    buf_free(&lines);
}

static void
on_access(struct http_app *app, struct slice line)
{
    (void)app;
    if (buf_reserve(&w.access_lines, line.n + 1) < 0)
        return;
    (void)buf_append(&w.access_lines, line.p, line.n);
    (void)buf_append(&w.access_lines, "", 1);
}

/* ("service", its number) for each that came. */
static int
tell_services(void)
{
    while (w.services != 0 && w.callback != NULL) {
        int i = __builtin_ctzll(w.services);
        w.services &= w.services - 1;
        PY_OWNED PyObject *done = PyObject_CallFunction(w.callback, "si", "service", i);
        if (done == NULL)
            return -1;
    }
    return 0;
}

static int
on_run(void *self)
{
    (void)self;
    if (asgi_run(&w.asgi) < 0)
        return -1;
    exchanges_run(&w.wsgi.exchanges);
    if (UNLIKELY(w.access_lines.n > 0))
        tell_access_lines();
    static const struct {
        enum worker_event event;
        const char *name;
    } events[] = { { EVENT_DRAIN, "drain" }, { EVENT_QUIT, "quit" }, { EVENT_DRAINED, "drained" } };
    static const char *const why_names[] = {
        [CONTROL_WHY_STOP] = "stop",       [CONTROL_WHY_RELOAD] = "reload",
        [CONTROL_WHY_SCALE] = "scale",     [CONTROL_WHY_RECYCLE] = "recycle",
        [CONTROL_WHY_UPGRADE] = "upgrade",
    };
    for (size_t i = 0; UNLIKELY(w.events != 0) && i < ARRAY_LEN(events); i++) {
        if (!(w.events & events[i].event) || w.callback == NULL)
            continue;
        w.events &= ~(unsigned)events[i].event;
        PY_OWNED PyObject *done =
            PyObject_CallFunction(w.callback, "ss", events[i].name, why_names[w.why]);
        if (done == NULL)
            return -1;
    }
    if (UNLIKELY(w.services != 0))
        return tell_services();
    return 0;
}

static void
on_flush(void *self)
{
    (void)self;
    net_flush(&w.net);
}

static int64_t
on_next_ns(void *self)
{
    (void)self;
    const int64_t due[] = { net_next_ns(&w.net), http_next_ns(&w.asgi.http),
                            exchanges_next_ns(&w.wsgi.exchanges) };
    int64_t next = -1;
    if (signals_have_term())
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(due); i++) {
        if (due[i] >= 0 && (next < 0 || due[i] < next))
            next = due[i];
    }
    return next;
}

static void
on_step(void *self, PyObject *context, const struct metrics_step *step)
{
    (void)self;
    asgi_step(&w.asgi, context, step);
}

static struct loop_client client = {
    .turn = on_turn,
    .has_work = on_has_work,
    .run = on_run,
    .flush = on_flush,
    .next_ns = on_next_ns,
    .step = on_step,
};

/* --- the module that ringcorn.worker is given ------------------------------------------------------------------------- */

/* A child of the application's own (os.fork(), multiprocessing) holds nothing of ours: a connection that we close must
 * end although the child lives. pthread_atfork() handlers also run for C libraries that fork, and not for vfork() and exec. */
static void
forked_child(void)
{
    (void)log_set_ring(NULL, -1); /* whoever empties it knows of our end, not of this child's */
    if (!w.is_attached)
        return;
    w.is_attached = false;
    metrics_begin(NULL, NULL);
    net_abandon(&w.net);
    close(w.args->control);
    answer_forget();
    guard_forget();
    looks_forget();
}

static PyObject *
worker_attach(PyObject *module, PyObject *loop)
{
    (void)module;
    const struct conf *conf = w.args->conf;
    struct io *io = loop_io(loop);
    if (io == NULL)
        return NULL;
    if (asgi_init(&w.asgi, loop, conf, &w.net, w.args->access_fd) < 0)
        return NULL;
    if (http_init(&w.asgi.http, &w.conn_ops) < 0) {
        asgi_fini(&w.asgi);
        return PyErr_NoMemory();
    }
    net_init(&w.net, io, &w.conn_ops, conf->limit_connections, conf->timeout_send_ms * NS_PER_MS);
    if (net_trust_proxies(&w.net, conf) < 0) {
        http_fini(&w.asgi.http);
        asgi_fini(&w.asgi);
        return PyErr_NoMemory();
    }
    if (conf->shake != NULL && shake_parse(&w.shake, conf->shake, strlen(conf->shake)) == 0)
        shake_here = &w.shake;
    w.requests_max = draw_requests_max(conf);
    w.io = io;
    w.loop = Py_NewRef(loop);
    net_set_tls(&w.net, w.args->tls, conf->limit_handshakes,
                conf->timeout_handshake_ms * NS_PER_MS);
    io_op_init(&w.control, on_control);
    io_poll(io, &w.control, w.args->control, POLLIN);
    w.is_attached = true;
    wsgi_init(&w.wsgi, &w.asgi.http);
    signals_attach(io, &w.asgi, &w.wsgi.exchanges);
    answer_attach(loop, &w.asgi, &w.wsgi.exchanges);
    if (pthread_atfork(NULL, NULL, forked_child) != 0)
        return PyErr_NoMemory();
    loop_attach(loop, &client, &w);
    loop_count(loop, metrics_here);
    if (conf->guard_mode != CONF_GUARD_OFF && conf->guard_loop_block_ms > 0)
        guard_start(loop, &w.asgi, conf->guard_loop_block_ms * NS_PER_MS);
    Py_RETURN_NONE;
}

/* count(pool, is_executor): into the metrics. */
static PyObject *
worker_count(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *pool;
    int is_executor;
    if (!PyArg_ParseTuple(args, "Op", &pool, &is_executor))
        return NULL;
    pool_count(
        pool,
        &metrics_here->pools[is_executor ? METRICS_POOL_EXECUTOR : METRICS_POOL_REQUESTS].crew);
    if (!is_executor)
        looks_start(pool);
    Py_RETURN_NONE;
}

static PyObject *
begin_serving(void)
{
    w.is_serving = true;
    guard_serving(true);
    int err = control_send(w.args->control, CONTROL_READY, (int32_t)w.args->slot, -1);
    if (err < 0)
        log_warning("the master cannot be told that this worker is ready: %s", strerror(-err));
    Py_RETURN_NONE;
}

static PyObject *
worker_serve(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *app, *websocket_app, *context, *state, *pool;
    if (!PyArg_ParseTuple(args, "OOOOO", &app, &websocket_app, &context, &state, &pool) ||
        asgi_serve(&w.asgi, app, websocket_app, context, state, pool) < 0)
        return NULL;
    return begin_serving();
}

/* Before serve(), for requests that go to a thread at once. */
static PyObject *
worker_direct(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *pool, *direct, *not_mine;
    if (!PyArg_ParseTuple(args, "OOO", &pool, &direct, &not_mine))
        return NULL;
    return asgi_direct(&w.asgi, &w.wsgi, pool, direct, not_mine);
}

static PyObject *
worker_serve_wsgi(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *app, *context, *presence, *pool;
    if (!PyArg_ParseTuple(args, "OOOO", &app, &context, &presence, &pool) ||
        wsgi_serve(&w.wsgi, w.loop, app, context, presence, pool) < 0)
        return NULL;
    return begin_serving();
}

static PyObject *
worker_notify(PyObject *module, PyObject *callback)
{
    (void)module;
    Py_XSETREF(w.callback, Py_NewRef(callback));
    Py_RETURN_NONE;
}

static PyObject *
worker_access_to(PyObject *module, PyObject *callback)
{
    (void)module;
    Py_XSETREF(w.access, Py_NewRef(callback));
    w.asgi.http.on_access = on_access;
    Py_RETURN_NONE;
}

/* service_said("stopped" | "ended", number) */
static PyObject *
worker_service_said(PyObject *module, PyObject *args)
{
    (void)module;
    const char *what;
    int id;
    if (!PyArg_ParseTuple(args, "si", &what, &id))
        return NULL;
    enum control_kind kind =
        strcmp(what, "ended") == 0 ? CONTROL_SERVICE_ENDED : CONTROL_SERVICE_STOPPED;
    /* A master that does not hear it gives the service to another when this worker is dead. */
    (void)control_send(w.args->control, kind, id, -1);
    Py_RETURN_NONE;
}

static PyObject *
worker_cancel_all(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    http_refuse_waiting(&w.asgi.http);
    return PyLong_FromSize_t(asgi_cancel_all(&w.asgi) + exchanges_cancel_all(&w.wsgi.exchanges));
}

static PyObject *
worker_in_hand(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *list = asgi_in_hand(&w.asgi);
    if (list != NULL && exchanges_in_hand(&w.wsgi.exchanges, list) < 0)
        Py_CLEAR(list);
    return list;
}

/* Of a task: "GET /path", or None. */
static PyObject *
worker_request_of(PyObject *module, PyObject *task)
{
    (void)module;
    return guard_request_of(&w.asgi, task);
}

/* requests() -> [(task or None, lease or None, label, age in seconds)] of those on the loop. Any thread with the GIL: without it no cycle
 * comes or goes. */
static PyObject *
worker_requests(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    int64_t now_ns = clock_ns();
    /* Up to 3.11 a new tuple may begin a collection, and that a finalizer, which ends requests. */
    int was_enabled = PyGC_Disable();
    PY_OWNED PyObject *found = PyList_New(0);
    struct list *end = &w.asgi.cycles, *node = w.loop != NULL ? end->next : end;
    for (; found != NULL && node != end; node = node->next) {
        const struct cycle *cycle = CONTAINER_OF(node, struct cycle, link);
        PY_OWNED PyObject *one =
            Py_BuildValue("OOsd", cycle->task != NULL ? cycle->task : Py_None,
                          cycle->lease != NULL ? cycle->lease : Py_None, cycle_label(cycle),
                          (double)(now_ns - cycle->begun_ns) / NS_PER_S);
        if (one == NULL || PyList_Append(found, one) < 0)
            Py_CLEAR(found);
    }
    if (was_enabled)
        PyGC_Enable();
    return py_take(&found);
}

/* The _Cycle that takes its first step on this thread, or None. */
static PyObject *
worker_first(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return asgi_first(&w.asgi);
}

/* count_guard(name): a guardrail has noticed something. */
static PyObject *
worker_count_guard(PyObject *module, PyObject *name)
{
    (void)module;
    const char *kind = PyUnicode_AsUTF8(name);
    if (kind == NULL)
        return NULL;
    metrics_u64 *counter = metrics_guard_counter(&metrics_here->guard, kind);
    if (counter == NULL)
        return PyErr_Format(PyExc_ValueError,
                            "%R is no kind of guard_events in server/metrics/list.h", name);
    metrics_add(counter, 1);
    Py_RETURN_NONE;
}

/* limit(milliseconds): the request that this thread answers has so long; False: there is none. */
static PyObject *
worker_limit(PyObject *module, PyObject *arg)
{
    (void)module;
    int64_t ms = PyLong_AsLongLong(arg);
    if (ms == -1 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(exchange_limit_here(ms));
}

/* What it is, for whoever looks at it from outside. */
static void
begin_worker(const struct worker_args *args)
{
    char title[16];
    if (args->conf->name != NULL) { /* cut by the kernel to 15 bytes; seen in top and ps -o comm */
        snprintf(title, sizeof(title), "%.10s:w%u", args->conf->name, args->slot % 1000);
        (void)prctl(PR_SET_NAME, title);
    }
    crash_own(args->slot);
}

/* fork_workers(): in the process that has imported the application. Returns the options of a worker in each that it forks, and None
 * in itself, when no more are wanted. */
static PyObject *
worker_fork_workers(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    static struct worker_args mine;
    mine = *w.args;
    if (!preload_serve(&mine))
        Py_RETURN_NONE;
    w.args = &mine;
    w.is_preload = false;
    begin_worker(&mine);
    signals_install_late();
    answer_start(mine.asks);
    crash_use_stack();
    return options_new(mine.conf);
}

/* count_databases(n): connections that are open now. */
static PyObject *
worker_count_databases(PyObject *module, PyObject *number)
{
    (void)module;
    unsigned long long n = PyLong_AsUnsignedLongLong(number);
    if (PyErr_Occurred())
        return NULL;
    metrics_set(&metrics_here->database.connections, n);
    metrics_set_max(&metrics_here->database.connections_max, n);
    Py_RETURN_NONE;
}

/* Ends what is still in hand and lets go of the loop, which can be closed then. */
static PyObject *
worker_detach(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    if (w.loop == NULL)
        Py_RETURN_NONE;
    guard_stop();
    looks_stop();
    signals_attach(NULL, NULL, NULL);
    answer_attach(NULL, NULL, NULL);
    while (w.listeners_n > 0)
        unlisten(w.listeners_n - 1);
    http_refuse_waiting(&w.asgi.http);
    asgi_abandon(&w.asgi);
    exchanges_abandon(&w.wsgi.exchanges);
    io_cancel(w.io, &w.control);
    net_leave_io(&w.net);
    loop_detach(w.loop, &w);
    w.io = NULL;
    if (w.access != NULL)
        tell_access_lines();
    w.asgi.http.on_access = NULL;
    Py_CLEAR(w.access);
    Py_CLEAR(w.callback);
    Py_CLEAR(w.loop);
    Py_RETURN_NONE;
}

/* After the loop was closed: frees every connection. */
static PyObject *
worker_free(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    if (!w.is_attached || w.loop != NULL)
        Py_RETURN_NONE;
    w.is_attached = false;
    Py_BEGIN_ALLOW_THREADS net_join(&w.net);
    Py_END_ALLOW_THREADS net_fini(&w.net);
    http_fini(&w.asgi.http);
    asgi_fini(&w.asgi);
    wsgi_fini(&w.wsgi);
    /* a master that is gone need not know */
    control_send(w.args->control, CONTROL_DRAINED, (int32_t)w.args->slot, -1);
    Py_RETURN_NONE;
}

static PyMethodDef worker_methods[] = {
    { "attach", worker_attach, METH_O, NULL },
    { "count", worker_count, METH_VARARGS, NULL },
    { "serve", worker_serve, METH_VARARGS, NULL },
    { "direct", worker_direct, METH_VARARGS, NULL },
    { "serve_wsgi", worker_serve_wsgi, METH_VARARGS, NULL },
    { "notify", worker_notify, METH_O, NULL },
    { "access_to", worker_access_to, METH_O, NULL },
    { "service_said", worker_service_said, METH_VARARGS, NULL },
    { "cancel_all", worker_cancel_all, METH_NOARGS, NULL },
    { "in_hand", worker_in_hand, METH_NOARGS, NULL },
    { "request_of", worker_request_of, METH_O, NULL },
    { "requests", worker_requests, METH_NOARGS, NULL },
    { "first", worker_first, METH_NOARGS, NULL },
    { "count_guard", worker_count_guard, METH_O, NULL },
    { "limit", worker_limit, METH_O, NULL },
    { "count_databases", worker_count_databases, METH_O, NULL },
    { "fork_workers", worker_fork_workers, METH_NOARGS, NULL },
    { "detach", worker_detach, METH_NOARGS, NULL },
    { "free", worker_free, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef worker_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_ringcorn_worker",
    .m_doc = "The C side of the worker, for ringcorn.worker alone.",
    .m_size = -1,
    .m_methods = worker_methods,
};

/* --- the whole ---------------------------------------------------------------------------------------------------------- */

static PyObject *
strings_list(const struct conf_strings *strings)
{
    PyObject *list = PyList_New((Py_ssize_t)strings->n);
    for (size_t i = 0; list != NULL && i < strings->n; i++) {
        PyObject *text = PyUnicode_DecodeFSDefault(strings->v[i]);
        if (text == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, text);
    }
    return list;
}

/* [(name, run, scope, restart)] */
static PyObject *
services_list(const struct conf *conf)
{
    static const char *const scopes[] = { "one", "worker" };
    static const char *const restarts[] = { "always", "on-failure", "never" };
    PyObject *list = PyList_New((Py_ssize_t)conf->services_n);
    for (size_t i = 0; list != NULL && i < conf->services_n; i++) {
        const struct conf_service *s = &conf->services[i];
        PyObject *entry =
            Py_BuildValue("(ssss)", s->name, s->run, scopes[s->scope], restarts[s->restart]);
        if (entry == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, entry);
    }
    return list;
}

/* {"post_fork": ["module:function"], ...} */
static PyObject *
hooks_dict(const struct conf *conf)
{
    return Py_BuildValue("{s:N,s:N,s:N,s:N}", "post_fork", strings_list(&conf->hook_post_fork),
                         "when_ready", strings_list(&conf->hook_when_ready), "worker_exit",
                         strings_list(&conf->hook_worker_exit), "on_reload",
                         strings_list(&conf->hook_on_reload));
}

/* Seconds; None = off. New. */
static PyObject *
seconds(int64_t ms)
{
    return ms == 0 ? Py_NewRef(Py_None) : PyFloat_FromDouble((double)ms / 1000);
}

/* What ringcorn.worker.run() needs to know: a new dict. */
static PyObject *
options_new(const struct conf *conf)
{
    static const char *const io[] = { "auto", "io_uring", "epoll" };
    static const char *const lifespan[] = { "auto", "on", "off" };
    static const char *const levels[] = { "debug", "info", "warning", "error" };
    static const char *const interface[] = { "auto", "asgi", "wsgi" };
    static const char *const affinity[] = { "request", "transaction", "call" };
    static const char *const websocket[] = { "message", "call", "connection" };
    static const char *const guard[] = { "off", "warn", "raise" };
    static const char *const orphans[] = { "off", "on", "cancel" };
    static const char *const otel[] = { "auto", "on", "off" };
    static const char *const one_hop[] = { "auto", "off" };
    /* N steals, also where the building fails; a NULL among them fails it with its exception. */
    return Py_BuildValue(
        "{s:I,s:I,s:i,s:s,s:O,s:s,s:s,s:N,s:s,s:s,s:s,s:d,"
        "s:I,s:I,s:s,s:s,s:I,s:O,s:I,s:N,s:N,s:N,s:s,s:s,s:s,s:s,s:K,s:z,s:s,s:I,s:N,s:N,s:s,s:O,s:"
        "O,s:O,s:O,s:O,s:N,s:s,s:O,s:O,s:O,s:s,s:N,s:O,s:O,s:z}",
        "slot", w.args->slot, "workers", conf->workers, "stacks_signal", WORKER_STACKS_SIGNAL,
        "app", conf->app, "factory", conf->factory ? Py_True : Py_False, "app_dir", conf->app_dir,
        "interface", interface[conf->interface], "import_first", strings_list(&conf->import_first),
        "io", io[conf->io], "lifespan", lifespan[conf->lifespan], "log_level",
        levels[conf->log_level], "graceful", (double)conf->timeout_graceful_ms / 1000,
        "sync_threads", conf->sync_threads, "sync_threads_max", conf->sync_threads_max,
        "sync_affinity", affinity[conf->sync_affinity], "sync_websocket",
        websocket[conf->sync_websocket], "executor_threads", conf->sync_executor_threads,
        "loop_first", conf->sync_loop_first == CONF_SWITCH_AUTO ? Py_True : Py_False, "sync_queue",
        conf->sync_queue, "sync_queue_timeout", seconds(conf->sync_queue_timeout_ms),
        "sync_idle_timeout", seconds(conf->sync_idle_timeout_ms), "sync_park_close_db",
        seconds(conf->sync_park_close_db_ms), "django_one_hop", one_hop[conf->django_one_hop],
        "django_conn_max_age", conf->django_conn_max_age, "django_start_hop",
        conf->django_start_hop_is_moved ? "move" : "stock", "anyio_threads",
        conf->anyio_threads_are_stock ? "stock" : "auto", "memory",
        (unsigned long long)conf_memory(), "log_config", conf->log_config, "version",
        RINGCORN_VERSION, "generation", w.args->generation, "hooks", hooks_dict(conf), "services",
        services_list(conf), "guard_mode", guard[conf->guard_mode], "guard_unawaited",
        conf->guard_unawaited ? Py_True : Py_False, "guard_lost",
        conf->guard_lost ? Py_True : Py_False, "guard_sync", conf->guard_sync ? Py_True : Py_False,
        "guard_transactions", conf->guard_transactions ? Py_True : Py_False, "guard_sessions",
        conf->guard_sessions ? Py_True : Py_False, "guard_threads", seconds(conf->guard_threads_ms),
        "otel", otel[conf->otel], "debug", conf->debug ? Py_True : Py_False, "preload",
        conf->preload ? Py_True : Py_False, "guard_unclosed",
        conf->guard_unclosed ? Py_True : Py_False, "guard_orphans", orphans[conf->guard_orphans],
        "guard_disconnect_grace", seconds(conf->guard_disconnect_grace_ms), "guard_swallowed",
        conf->guard_swallowed ? Py_True : Py_False, "cancel_queries",
        conf->cancel_queries ? Py_True : Py_False, "shake", conf->shake);
}

/* run() of the module called name; returns the exit code. */
static int
run_python(const char *name)
{
    PY_OWNED PyObject *module = PyModule_Create(&worker_module);
    PY_OWNED PyObject *options = options_new(w.args->conf);
    PY_OWNED PyObject *python = PyImport_ImportModule(name);
    PY_OWNED PyObject *result = NULL; /* up here: no goto may jump over an owned local */
    if (module == NULL || options == NULL || python == NULL)
        goto failed;
    result = PyObject_CallMethod(python, "run", "OO", module, options);
    if (result == NULL)
        goto failed;
    return (int)PyLong_AsLong(result);

failed:
    if (PyErr_ExceptionMatches(PyExc_OSError)) { /* io: io_uring that cannot be had, among others */
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        PY_OWNED PyObject *text = PyObject_Str(value);
        log_operator("%s", text != NULL ? PyUnicode_AsUTF8(text) : "the worker failed");
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return EXIT_CODE_SYSTEM;
    }
    PyErr_Print();
    return EXIT_CODE_APP;
}

/* From the start of Python to its end. */
static int
run(const struct worker_args *args, const char *name)
{
    const struct conf *conf = args->conf;
    w.args = args;
    if (conf_export_env(conf) < 0 || PyImport_AppendInittab("_ringcorn", PyInit__ringcorn) < 0) {
        log_error("out of memory while starting Python");
        return EXIT_CODE_SYSTEM;
    }
    struct embed_options options = {
        .exe = args->exe,
        .venv = conf->venv,
        .app_dir = conf->app_dir,
        .python_path = conf->python_path.v,
        .python_path_n = conf->python_path.n,
        .python_options = conf->python_options.v,
        .python_options_n = conf->python_options.n,
        .argc = args->argc,
        .argv = args->argv,
    };
    int code = embed_start(&options);
    if (code != 0)
        return code;
    answer_start(args->asks);
    crash_use_stack();
    code = run_python(name);
    if (w.is_preload)
        return code; /* the application is the workers': what it does at its end, each of them does */
    answer_stop();
    if (embed_stop() < 0)
        log_warning("Python ended with unflushed output");
    return code;
}

int
worker_run(const struct worker_args *args)
{
    signals_install();
    crash_install();
    begin_worker(args);
    int code = run(args, "ringcorn.worker");
    close(args->control);
    return code;
}

int
worker_preload(const struct worker_args *args)
{
    signals_install_early();
    crash_install();
    preload_set_title(args->conf);
    w.is_preload = true;
    int code = run(args, "ringcorn.preload");
    close(w.args->control); /* a worker's, in those that it has forked */
    return code;
}

int
worker_check(const struct worker_args *args)
{
    signal(SIGPIPE, SIG_IGN); /* a database that hangs up is an error, not the end */
    return run(args, "ringcorn.check");
}

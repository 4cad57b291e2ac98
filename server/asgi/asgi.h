/* asgi.h: ASGI 3 (https://asgi.readthedocs.io, HTTP and WebSocket spec_version 2.5) on top of http/ and the event loop.
 *
 *   server.c      one application behind one loop: the list of work between the I/O phase and the Python phase
 *   http_cycle.c  one request: begun, run as a task, ended in one function only
 *   scope.c       the scope dictionary, built from the parser's slices        names.c   constants, cached header pairs
 *   receive.c     the receive() callable      send.c   the send() callable    wait.c    the awaitable both return
 *   watched.c     what the guardrails of ringcorn.guard know of a request
 *   direct.c      requests that go to a thread without a task on the loop    direct_type.c  what their thread sees    guess.c  which those are
 *   ws_receive.c, ws_send.c   the same two of a WebSocket
 *
 * A request, from head to end:
 *
 *     http begin() ──> queued ──asgi_run()──> RUNNING ──task done──> ended (h1_end)
 *      (I/O phase,  │             (GIL)        ↑ receive(), send(); HTTP_BODY, HTTP_DRAINED and HTTP_GONE wake them
 *       no GIL)     └──> exchange ──on a thread, answered there──> ended (h1_end)
 *              guess.c   (direct.c, wsgi/)     │
 *                                              └─ given back: it was no request for a thread, or not all of it was
 *
 * The callbacks of http/ may come without the GIL, so they only fill arrays and lists of plain memory; asgi_run() works those
 * off with the GIL held. Everything runs on the loop thread. */
#ifndef RINGCORN_ASGI_H
#define RINGCORN_ASGI_H

#include "py/py.h"

#include <structmember.h>

#include "http/http.h"
#include "wsgi/wsgi.h"

struct cycle;
struct asgi_names;
struct guesses;

/* A growing array of pointers that can be filled without the GIL. */
struct asgi_queue {
    void **v;
    size_t n, cap;
};

/* One application behind one loop. Embedded in the worker; plain memory. */
struct asgi {
    struct http_app http;    /* first: http/ hands its address back to us */
    PyObject *loop;          /* borrowed from the worker until asgi_abandon() */
    pthread_t thread;        /* the loop's */
    PyObject *app;           /* new */
    PyObject *websocket_app; /* new: for WebSocket scopes, whose leases are shorter */
    PyObject *context;       /* new: the lifespan's; every request runs in a copy */
    PyObject *state;         /* new: the lifespan's state, copied per request */
    PyObject *pool;          /* new: the _ringcorn.Pool of thread-sensitive code */
    struct asgi_names *names;
    struct list cycles;          /* running, oldest first */
    struct cycle *first;         /* the one that takes its first step now, or NULL */
    struct list work;            /* cycles with events to handle */
    struct asgi_queue begun;     /* struct h1 * whose head has been parsed */
    struct asgi_queue trash;     /* owners (see send.c) to be released with the GIL held */
    struct exchanges *exchanges; /* of the direct path; NULL = there is none. See asgi_direct() */
    struct wsgi_names *wsgi_names;
    PyObject *direct; /* new: direct(exchange), as the next */
    PyObject *not_mine;
    struct guesses *guesses;
    struct list returned; /* exchanges that their threads gave back to the loop */
    bool has_run_out; /* an array could not grow: begun requests were refused since, said once */
};

/* Sets up the struct. conf and net outlive it. Returns 0 or -1 with an exception set. */
int asgi_init(struct asgi *a, PyObject *loop, const struct conf *conf, struct net *net,
              int access_fd);
/* The net is closed already (net_fini), so no callback comes any more. */
void asgi_fini(struct asgi *a);

/* app, websocket_app: any ASGI 3 callables. context, state, pool: as in struct asgi. */
int asgi_serve(struct asgi *a, PyObject *app, PyObject *websocket_app, PyObject *context,
               PyObject *state, PyObject *pool);

/* Requests whose path led to synchronous code before go to a thread at once, with no task and no GIL on the loop: direct(exchange) is called
 * there (_ringcorn.Exchange, direct_type.c). It returns None where it has answered; not_mine where it has done nothing, and the request is the
 * application's after all; or a function(receive, send) whose coroutine goes on with it on the loop. w: opened by this; pool: a
 * _ringcorn.Pool. Before asgi_serve(). Returns a new function(scope, is_sync), by which the application says what it has found on the
 * loop; NULL with an exception set. */
PyObject *asgi_direct(struct asgi *a, struct wsgi *w, PyObject *pool, PyObject *direct,
                      PyObject *not_mine);

/* For struct loop_client. */
bool asgi_has_work(const struct asgi *a);
int asgi_run(struct asgi *a);
void asgi_step(struct asgi *a, PyObject *context, const struct metrics_step *step);
/* Whose step runs now, in that context; NULL: no request's. It runs no Python. Then, of that one: it was found at this line of code. GIL held,
 * any thread. */
const void *asgi_step_of(const struct asgi *a, PyObject *context);
void asgi_place(const struct asgi *a, const void *of, const char *place);

/* Cancels the task of every request in hand that was not cancelled before. May run Python. Returns how many. */
size_t asgi_cancel_all(struct asgi *a);

/* Ends every request in hand without waiting for its task, which finds its connection gone. For the worker's end. */
void asgi_abandon(struct asgi *a);

/* Writes "in hand: GET /path (2.1 s)" lines, at most max, to the error log; async-signal-safe when called on the loop's thread. */
void asgi_report_signal_safe(const struct asgi *a, size_t max);

/* The same as a list of str, new. */
PyObject *asgi_in_hand(const struct asgi *a);

/* New: the _Cycle that takes its first step now; None: none does, or this is another thread. */
PyObject *asgi_first(const struct asgi *a);

/* The types of this folder, added to _ringcorn. */
int asgi_add_types(PyObject *module);

/* --- private to the folder ----------------------------------------------------------------------------------------- */

enum { CYCLE_LABEL_SIZE = 64 }; /* "GET /path", cut, for reports */

/* What there is of no WebSocket. */
struct cycle_http {
    PyObject *scope; /* new: for its route; or NULL */
    PyObject *early; /* new: the body, where a thread had the request before (direct.c); or NULL */
    struct metrics_steps steps; /* on the loop */
};

/* One request. A Python object because its receive and send outlive us when the application keeps them. No larger than it must be: there may be
 * thousands, of idle WebSockets. */
struct cycle {
    PyObject_VAR_HEAD    /* of what is behind it */
    vectorcallfunc call; /* the task's done callback is the cycle itself */
    struct asgi *asgi;   /* NULL once ended */
    struct h1 *h;        /* NULL once ended */
    PyObject *task;      /* new; NULL before the start and after the end */
    /* new; the request's thread for synchronous code, NULL where nothing wants one */
    PyObject *lease;
    struct list link;  /* asgi->cycles */
    struct list work;  /* asgi->work */
    struct list waits; /* struct wait, suspended in receive() or send() */
    PyObject *guard;   /* new: what ringcorn.guard keeps with it, see watched.c; or NULL */
    int64_t begun_ns;
    struct post lost;  /* from the finalizer to the loop */
    uint8_t events;    /* enum http_event, not yet handled */
    bool body_is_told; /* the last http.request message was handed out */
    bool knows_gone;   /* the application was told that the client has gone, or has sent since */
    bool is_full;      /* more than the high-water mark is unsent; until HTTP_DRAINED */
    bool is_held;      /* see cycle_hold() */
    bool is_websocket;
    /* seldom looked at */
    bool is_cancelled : 1; /* by us, at the drain's end */
    bool is_leaving : 1;   /* an event stream, told http.disconnect as the worker leaves */
    bool is_overdue : 1;   /* and so: it took longer than timeouts.request */
    /* 503 was sent in place of the application's own error: see send_start() */
    bool is_refused : 1;
    bool expects_trailers : 1; /* http.response.start said so, and the client takes them */
    bool is_body_sent : 1;     /* of such an answer, with its trailers still to come */
    bool connect_is_told : 1, disconnect_is_told : 1;
    bool is_accepted : 1; /* websocket.accept was sent */
    bool is_closed : 1;   /* websocket.close was */
    /* one; of a WebSocket none. Behind it the label, with its NUL at most CYCLE_LABEL_SIZE */
    struct cycle_http http[];
};

static inline char *
cycle_label(const struct cycle *cycle)
{
    return (char *)(cycle->http + !cycle->is_websocket);
}

/* A callable bound to a cycle: receive or send. */
struct channel {
    PyObject_HEAD
    vectorcallfunc call;
    struct cycle *cycle; /* new */
};

/* WAIT_SEND: send() was called by another thread; the loop sends when it awaits. */
enum wait_kind { WAIT_VALUE, WAIT_RECEIVE, WAIT_DRAIN, WAIT_SEND };

/* What receive() and send() return: a coroutine by its methods (asyncio.create_task() takes it). One that is already satisfied does
 * not suspend. */
struct wait {
    PyObject_HEAD
    struct list link;    /* cycle->waits while suspended */
    struct cycle *cycle; /* new, or NULL */
    PyObject *value;     /* WAIT_VALUE: the result, WAIT_SEND: the message, new; NULL = None */
    PyObject *future;    /* while suspended: what the task waits for, new */
    enum wait_kind kind;
    bool must_yield; /* suspend once although satisfied: the step has run for too long */
};

/* A request on a thread, _ringcorn.Exchange. */
struct direct {
    PyObject_HEAD
    struct asgi *asgi;
    struct exchange *ex; /* NULL once the thread is done with it */
    PyObject *scope;     /* new, as all below */
    PyObject *lease;     /* whose job this is; NULL once closed, or the cycle's */
    PyObject *body;
    PyObject *left;    /* what goes on with it on the loop, or NULL */
    PyObject *context; /* of the request, once it was given back */
    bool is_finished;
};

struct asgi_names {
    /* types, borrowed from the module that names holds */
    PyObject *module;
    PyTypeObject *cycle_type, *receive_type, *send_type, *wait_type, *direct_type;
    PyObject *report;  /* ringcorn.log.request_failed(label, exception, what, client_is_gone) */
    PyObject *overdue; /* ringcorn.overload.overdue(label, seconds, status, task, pool, timeout) */
    PyObject *refused; /* ringcorn.overload.refused(label, pool, exception) -> bool */
    /* ringcorn.guard's: the context variable, gone(cycle), cancel(cycle), ended(guard). NULL where guard.mode is off */
    PyObject *guard_request, *guard_gone, *guard_cancel, *guard_ended;
    PyObject *as_coroutine; /* ringcorn.app.as_coroutine(awaitable) */
    PyObject *disconnected; /* class ClientDisconnected(ConnectionResetError) */
    PyObject *future_type;  /* asyncio.Future */
    PyObject *wait_done;    /* the one satisfied wait with the result None */
    PyObject *empty_bytes, *root_path_bytes;
    PyObject *websocket_template;
    PyObject *scope_template, *asgi_template, *request_template, *disconnect_template;
#define ASGI_STRINGS(X)                                                                            \
    X(type) X(asgi) X(version) X(spec_version) X(http_version) X(server) X(client) X(scheme)       \
    X(method) X(root_path) X(path) X(raw_path) X(query_string) X(headers) X(state) X(extensions)   \
    X(status) X(body) X(more_body) X(http) X(https) X(websocket) X(ws) X(wss) X(subprotocol) X(subprotocols)       \
    X(text) X(bytes) X(code) X(reason) X(tls) X(server_cert) X(client_cert_chain) X(client_cert_name)  \
    X(client_cert_error) X(tls_version) X(cipher_suite) X(file) X(offset) X(count) X(links) X(trailers)             \
    X(more_trailers) X(info) X(route) X(endpoint) X(request_id)
#define X(name) PyObject *s_##name;
    ASGI_STRINGS(X)
#undef X
    PyObject *request_id; /* the context variable ringcorn.log.request_id */
    PyObject *http_request, *http_disconnect, *response_start, *response_body; /* message types */
    PyObject *ws_connect, *ws_receive, *ws_disconnect, *ws_accept, *ws_send, *ws_close;
    PyObject *ws_response, *ws_response_start, *ws_response_body;
    PyObject *response_pathsend, *response_zerocopysend, *response_early_hint, *response_trailers,
        *response_debug;
    PyObject *extensions_template,
        *ws_extensions_template; /* of an HTTP/1.1 request, of a WebSocket; each is a dict, {} */
    PyObject *tell, *seek;       /* method names */
    PyObject *version_10, *version_11;
    PyObject *loop_kwname, *context_kwname; /* ("loop",), ("context",) */
    PyObject *exception, *add_done_callback, *cancel, *cancelling, *set_result, *result,
        *done;                 /* method names */
    PyObject *future_blocking; /* "_asyncio_future_blocking" */
    PyObject *methods[8];      /* GET, HEAD, POST, ... as str */
    struct header_cache *headers;
    PyObject *name_ws_key;  /* b"sec-websocket-key" */
    PyObject *client_host;  /* of the last connection's client: ASCII, or NULL */
    PyObject *server_tuple; /* of the last connection's local address */
    char server_text[108];  /* the same as text */
    size_t server_text_n;
    unsigned server_port;
    /* there were others before: threads may have changed the template meanwhile */
    bool has_servers;
};

struct asgi_names *names_new(const struct conf *conf);
void names_free(struct asgi_names *names);
PyObject *names_method(struct asgi_names *names, struct slice method); /* new */
/* new: (name, value) */
PyObject *names_header(struct asgi_names *names, struct slice name, struct slice value);

/* New. addresses: of scope_addresses() or scope_ends(). GIL held, any thread. */
PyObject *scope_new(struct asgi *a, const struct http_request *r, PyObject *addresses);
/* (client, server, tls extension or None): new */
PyObject *scope_addresses(struct asgi_names *n, struct h1 *h);
/* the connection need not keep them: no other request is likely to come */
void scope_addresses_drop(struct h1 *h);
PyObject *scope_ends(struct asgi_names *n, const struct exchange_ends *ends); /* the same */
PyObject *channel_new(PyTypeObject *type, struct cycle *cycle);               /* new */
/* new; steals value, also on failure; NULL = None */
PyObject *wait_value(struct cycle *cycle, PyObject *value);
/* new; message: of WAIT_SEND, else NULL */
PyObject *wait_until(struct cycle *cycle, enum wait_kind kind, PyObject *message);
void wait_wake_all(struct cycle *cycle); /* may run Python */
/* new: a message; or NULL, without an exception when it must wait */
PyObject *receive_next(struct cycle *cycle);
PyObject *receive_last(struct cycle *cycle); /* new: http.disconnect, also after the end */
/* new: a struct wait, not of WAIT_SEND */
PyObject *send_message(struct cycle *cycle, PyObject *event);
PyObject *ws_receive_next(struct cycle *cycle); /* the same of a WebSocket */
PyObject *ws_receive_last(struct cycle *cycle);
PyObject *ws_send_message(struct cycle *cycle, PyObject *type, PyObject *event);
/* send.c: these also deny a WebSocket. */
PyObject *send_start(struct cycle *cycle, PyObject *event);
PyObject *send_body(struct cycle *cycle, PyObject *event);
/* send_more.c: what scope["extensions"] names. */
PyObject *send_extension(struct cycle *cycle, PyObject *type, PyObject *event);
bool send_is_type(PyObject *type, PyObject *wanted);          /* wanted: one of the names */
PyObject *send_out_of_order(PyObject *type, const char *why); /* NULL, with RuntimeError set */

enum { HEADERS_ON_STACK = 48 };

/* The headers of a message, which its owners keep. */
struct header_table {
    PyObject *pairs;  /* new: the application's sequence */
    PyObject *copies; /* new: tuples made of pairs that are none, or NULL */
    struct http_header *v;
    size_t n;
    struct http_header *on_heap;
    struct http_header on_stack[HEADERS_ON_STACK];
};
/* what: the message's type, for exceptions. 0, or -1 with an exception set and nothing to drop. May run Python. */
int headers_take(struct cycle *cycle, PyObject *event, const char *what, struct header_table *out);
void headers_drop(struct header_table *table); /* may run Python; the pending exception stays */
bool cycle_is_here(const struct cycle *cycle); /* is this the loop's thread? */
bool cycle_must_yield(const struct cycle *cycle);
/* new. label: NULL = from the request's head, which is still there */
struct cycle *cycle_new(struct asgi *a, struct h1 *h, const char *label);
int cycle_start(struct cycle *cycle); /* -1: an exception that is not the request's */
/* Goes on with what a thread gave back, by the lease that it had. scope: borrowed; left: NULL, or what makes the coroutine in the application's
 * place. context: where the lease is set. */
int cycle_resume(struct cycle *cycle, PyObject *scope, PyObject *left, PyObject *context);
int cycle_events(struct cycle *cycle);
/* Was a call of the request turned away, as too many waited for a thread, or for too long (sync.queue, sync.queue_timeout)? */
bool cycle_was_refused(const struct cycle *cycle);
/* The worker leaves, and has stopped what its thread did: 503 is its answer. */
bool cycle_is_stopped(const struct cycle *cycle);
/* While something suspended in receive() or send() waits for the client, the server has a reference of its own: nothing else
 * need refer to the task then, and the collector would take cycle, task, coroutine and future for garbage. Brings that
 * reference in line with `waits`; the caller has a reference. */
/* The request has ended: counts it by the route that the framework has left in its scope, if any. of: whose step asgi_place() may know; or NULL. */
void route_count(struct asgi *a, PyObject *scope, int status, const struct metrics_spent *spent,
                 const void *of);
void route_forget(const void *of); /* it ends: nothing is known of its steps */
void cycle_hold(struct cycle *cycle);
void cycle_abandon(struct cycle *cycle);
/* Has the client gone before its answer was complete, and the application neither read nor sent since? */
bool cycle_is_left(const struct cycle *cycle);
/* watched.c. begin: in the request's context, before its first step; suspend: it has not ended in that. 0, or -1 with an exception set.
 * The others may run Python. */
int watched_begin(struct cycle *cycle);
int watched_suspend(struct cycle *cycle, PyObject *context);
void watched_gone(struct cycle *cycle);
void watched_cancel(struct cycle *cycle, PyObject *task); /* task: its own */
void watched_end(struct cycle *cycle);
extern PyMemberDef cycle_members[];
extern PyGetSetDef cycle_getset[];
extern PyMethodDef cycle_methods[];
PyObject *send_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames);
void held_release(void *owner); /* send.c: GIL held */
/* Pairs of bytes, of http.response.start: borrowed slices. 0 or -1 with an exception set. */
/* what: the message's type */
int send_header_of(PyObject *pair, size_t i, const char *what, struct http_header *out);
/* why h1_start() refused it */
void send_set_start_error(enum http_write err, PyObject *pairs, size_t bad, long status);

/* guess.c: which paths lead to synchronous code. Any thread. */
struct guesses *guesses_new(void); /* NULL = out of memory */
bool guess_is_sync(struct guesses *g, struct slice path);
/* NEVER: a thread gave it back, whatever the application says of it on the loop. */
enum guess { GUESS_SYNC = 1, GUESS_ASYNC, GUESS_NEVER };
void guess_learn(struct guesses *g, struct slice path, enum guess guess);

struct direct *direct_new(struct asgi *a, struct exchange *ex); /* new; in the request's context */

/* direct.c */
bool direct_takes(struct asgi *a, struct h1 *h); /* begins it, where it is one; http_app.begin */
int direct_run(struct asgi *a); /* those that were given back; -1 as cycle_start() */
void direct_abandon(struct asgi *a);
void direct_fini(struct asgi *a);

extern PyType_Spec cycle_spec, receive_spec, send_spec, wait_spec, direct_spec;

#endif

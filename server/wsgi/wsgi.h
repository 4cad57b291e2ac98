/* wsgi.h: requests that are answered by threads of the pool, and WSGI (PEP 3333) as the way to answer them.
 *
 *   exchange.c   one request between the loop and its thread: begun, handed over, over     bytes.c    its body and its answer
 *   server.c     one application behind one loop        call.c     one call of the application: its result, its end
 *   environ.c    the environ dictionary                 names.c    constants, cached keys and values
 *   start.c      start_response() and write()           input.c    wsgi.input        file.c   wsgi.file_wrapper
 *
 * The loop does HTTP, a thread does Python, and neither waits for the other's lock: the loop copies the head and queues the exchange
 * without the GIL, the thread hands over its answer as plain memory (loop_post_io), and the loop frames and sends it, again without
 * the GIL.
 *
 *     begin() ──> GATHERING ──body is here──> HANDED ──its thread's last post──> OVER: h1_end()
 *        │                                      ↑ └─ client gone or sync.queue_timeout before a thread had time ─┘
 *        └─ no body, or one that does not end soon (the thread reads it as it comes)
 *
 * Threads: functions of the loop's side run on its thread with or without the GIL; those of the thread's side say what they need. */
#ifndef RINGCORN_WSGI_H
#define RINGCORN_WSGI_H

#include "py/py.h"

#include <pthread.h>
#include <stdatomic.h>

#include "http/http.h"
#include "sync/sync.h"

struct exchange;
struct piece;
struct wsgi_names;

/* What all exchanges of a loop share. */
struct exchanges {
    struct http_app *http;
    void *user; /* of whoever opened it */
    /* see exchange_return(). The loop's thread, any GIL state */
    void (*returned)(struct exchange *ex);
    PyObject *loop;    /* new: threads post to it, perhaps after its end */
    PyObject *pool;    /* new */
    struct crew *crew; /* the pool's */
    /* handed over, and the thread is not done: longer than in hand where it has work after its answer */
    atomic_uint at_threads;
    atomic_bool tells_idle; /* the last of those wakes the loop: it drains */
    struct list all;        /* in hand, oldest first: the loop's */
    struct list work;       /* of them, those with something to do in the next turn: the loop's */
    struct list late;       /* of them, those that are given up, for exchanges_run(): the loop's */
    struct exchange *kept;  /* for reuse: the loop's */
    unsigned kept_n;
    _Atomic(struct exchange *) spent; /* given back by threads */
    _Atomic(struct piece *)
        sent;        /* Python objects whose bytes were sent: for whoever has the GIL */
    int64_t sent_ns; /* since when the oldest of them has been there; 0 = none. The loop's */
    int64_t refused_logged_ns; /* the last line about requests that no thread had time for */
    unsigned refused;          /* of those, since that line */
};

/* One application behind one loop. Embedded in the worker; plain memory. */
struct wsgi {
    struct exchanges exchanges;
    PyObject *app;     /* new */
    PyObject *context; /* new: every request runs in a copy */
    struct wsgi_names *names;
};

/* Sets up the struct. http and its conf outlive it. */
void wsgi_init(struct wsgi *w, struct http_app *http);
/* app: a WSGI callable; context: as in the struct; presence: environ["ringcorn.worker"]; pool: a _ringcorn.Pool. http hands its requests to us from here on. GIL held; 0 or
 * -1 with an exception set. */
int wsgi_serve(struct wsgi *w, PyObject *loop, PyObject *app, PyObject *context, PyObject *presence,
               PyObject *pool);
/* Only what others need for exchanges of their own: names and the set. GIL held; 0 or -1 with an exception set. */
int wsgi_open(struct wsgi *w, PyObject *loop, PyObject *pool);
/* GIL held. The net is closed already (net_fini), and exchanges_abandon() was called. A thread that was left behind keeps what it needs. */
void wsgi_fini(struct wsgi *w);

/* The types of this folder, added to _ringcorn. */
int wsgi_add_types(PyObject *module);

/* --- for struct loop_client and the worker's end -------------------------------------------------------------------------- */

void exchanges_turn(struct exchanges *s); /* behind net_turn(): what connections said */
/* is there something for exchanges_run()? Any GIL state */
bool exchanges_have_work(const struct exchanges *s);
void exchanges_run(struct exchanges *s);              /* GIL held */
int64_t exchanges_next_ns(const struct exchanges *s); /* as next_ns of struct loop_client */

/* Is some thread not done with its request? It may have work though the answer is complete. */
bool exchanges_are_at_threads(const struct exchanges *s);
/* No request waits for a thread any longer (503), and no thread for a client (its read or write fails): for a quick end. Returns how
 * many requests are in hand. Queries of theirs are cancelled. GIL held. */
size_t exchanges_cancel_all(struct exchanges *s);
/* Ends every request in hand without waiting for its thread, which finds its client gone. */
void exchanges_abandon(struct exchanges *s);
/* Writes "in hand for 2 s: GET /path" lines to the error log, at most max; async-signal-safe on the loop's thread. Returns how many more
 * may be written. */
size_t exchanges_report_signal_safe(const struct exchanges *s, size_t max);
/* Appends their labels to a list of str. GIL held; 0 or -1 with an exception set. */
int exchanges_in_hand(const struct exchanges *s, PyObject *list);

/* --- exchanges: the loop's side --------------------------------------------------------------------------------------------- */

enum {
    EXCHANGE_LABEL_SIZE = 96, /* "GET /path", cut, for reports */
    /* a body up to this is awaited before a thread is asked for */
    EXCHANGE_BODY_WHOLE_MAX = 64 * 1024,
    /* bytes handed over and not yet written, above which the thread waits */
    EXCHANGE_UNSENT_MAX = 64 * 1024,
    EXCHANGE_COPY_MAX = 16 * 1024, /* pieces below are copied, others lent */
    EXCHANGE_PATIENCE_MS = 2, /* a thread that waits longer for its client gives its slot away */
};

/* What hangs on a connection (h1_conn_data()) from its first request on: its ends as text, and what the application keeps there. */
struct exchange_conn {
    void *kept; /* the application's; NULL at first */
    uint16_t client_port, server_port;
    uint8_t client_n, server_n;
    bool is_unix;
    struct tls_about *tls; /* new; NULL = plain */
    char text[];           /* client, server */
};

/* Borrowed from the connection; NULL = out of memory. */
struct exchange_conn *exchange_conn(struct h1 *h);
/* With its connection; what the application kept there is the caller's. */
void exchange_conn_free(struct exchange_conn *conn);

/* The same of one request. */
struct exchange_ends {
    struct slice client, server;       /* addresses; of a unix socket: "" and its path */
    unsigned client_port, server_port; /* 0 = not known */
    bool is_unix;                      /* server is a path */
    struct tls_about *tls;             /* a reference in an exchange, else borrowed; NULL = plain */
};

/* The connection's, but for what a trusted proxy says. Slices are valid as long as client, the connection and the head are. false: out of
 * memory. */
bool exchange_ends(struct h1 *h, struct exchange_ends *out, char client[INET6_ADDRSTRLEN]);

/* REFUSED: no thread will have it, it is answered in the next turn. RETURNED: its thread has given it back, see exchange_return(). */
enum exchange_state {
    EXCHANGE_GATHERING,
    EXCHANGE_HANDED,
    EXCHANGE_SENDING,
    EXCHANGE_REFUSED,
    EXCHANGE_RETURNED,
    EXCHANGE_OVER
};

/* The head of an answer, as start_response() gave it: copied memory. */
struct answer {
    int status; /* 0 = there is none yet */
    struct slice reason;
    struct http_header *headers;
    unsigned headers_n;
    void *heap;      /* where it did not fit into the room */
    uint64_t length; /* its Content-Length; UINT64_MAX = none */
    char digits[24]; /* of exchange_total() */
};

/* A part of a body on its way to the loop, and then to the kernel. */
struct piece {
    struct piece *next;
    PyObject *bytes; /* new: p is in it; NULL: p is memory of ours */
    const char *p;
    size_t n;
    size_t room;  /* behind p + n, to be filled */
    bool is_file; /* not at p, but n bytes of fd from `at` on */
    int fd;       /* the piece's */
    uint64_t at;
};

struct exchange {
    struct sync_job job;
    struct lease lease;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t room_size;
    struct exchange *next; /* kept or spent */

    struct exchanges *set; /* from here to room: zeroed for each request */
    atomic_uint refs;      /* the loop's, the thread's, the post's, and those of exchange_take() */
    /* The thread's way of answering; GIL held, leaves no exception set. Ends in exchange_end() or exchange_fail(), or in neither: the
     * connection is closed then. */
    void (*serve)(struct exchange *ex);

    /* the loop's */
    enum exchange_state state;
    struct list link; /* set->all */
    struct list work; /* set->work */
    struct list late; /* set->late */
    struct list user; /* of whom it was returned to */
    unsigned events;  /* enum http_event, not yet handled */
    bool is_overdue;  /* in set->late: it takes longer than it may; else its client has gone */
    struct h1 *h;     /* NULL once over */
    int64_t begun_ns;
    char label[EXCHANGE_LABEL_SIZE];

    /* constant once handed over: slices point into room */
    struct http_request req;
    struct exchange_ends ends;

    /* the thread's */
    pthread_t thread; /* that runs it: set before serve() */
    /* whose job it is; NULL: not in hand of the thread any more. Written before it is handed over, and with the GIL */
    struct lease *at;
    int64_t called_ns;    /* when serve() was called */
    void *left;           /* what the thread hands back with it, see exchange_return() */
    struct answer answer; /* its head, until is_started */
    struct piece first;   /* the first small piece, in room */
    bool first_is_used;

    /* under the lock; flags that are atomic are also looked at without */
    struct post post; /* in flight while is_posted */
    bool is_posted;
    struct post limit_post; /* in flight while is_limited */
    bool is_limited;
    int64_t limit_ms; /* as h1_limit() takes it */
    unsigned waiters; /* threads that wait for `changed` */
    bool is_started;  /* the head was handed over with the first piece: too late to change it */
    struct piece *out_first, *out_last; /* handed over, not taken by the loop */
    size_t out_bytes;                   /* of them */
    bool is_full;                       /* the connection has more than enough unsent */
    bool is_complete;                   /* nothing follows what was handed over */
    bool is_failed;                     /* 500, if it is not too late */
    bool is_stopped;                    /* 503 in place of that: the worker leaves */
    bool is_returned;                   /* the thread gives it back to the loop */
    bool is_ended;                      /* the thread needs the loop no more */
    bool end_is_told;                   /* a post that says so was made, or is under way */
    atomic_bool is_cancelled;           /* nobody is to wait for the client */
    atomic_bool is_broken;              /* nothing can be sent any more */
    atomic_bool is_gone;                /* nothing more will be received */
    bool wants_body;
    bool body_is_complete; /* in[in_start..in_end) is the last of it */
    /* Of the body, what was received and not read. The loop touches it only while wants_body, or before it is handed over. */
    char *in;
    size_t in_start, in_end, in_room;
    bool in_is_heap;

    size_t room_n;
    /* copies of the head, of the answer's head, and the first small piece: the loop's, and then the thread's */
    char room[];
};

void exchanges_init(struct exchanges *s, struct http_app *http);
/* GIL held; 0 or -1 with an exception set. */
int exchanges_open(struct exchanges *s, PyObject *loop, PyObject *pool);
void exchanges_fini(struct exchanges *s); /* GIL held; nothing is in hand, or at threads */

/* Begins one for h, which has just been parsed: in http_app.begin. Always takes the request; what cannot be done is answered with 503. */
void exchange_begin(struct exchanges *s, struct h1 *h, void (*serve)(struct exchange *ex));
/* Would its thread find all of the body? Not where that is long, comes in chunks, or waits for 100 Continue. */
bool exchange_will_be_whole(struct h1 *h);
/* Which exchange h1_data() is; NULL: none (of a request that is not ours). */
struct exchange *exchange_of(void *h1_data);
/* http_app.event of its connection. */
void exchange_event(struct exchange *ex, unsigned events);
/* http_app.release for what exchange_*() gave to h1_write(): owners with OWNER_TAG. */
enum { OWNER_TAG = 2 };
void exchange_release(struct exchanges *s, void *owner);
/* A returned one: the request goes its own way, which ends in h1_end(). Returns its h1, and leaves h1_data() NULL. */
struct h1 *exchange_part(struct exchange *ex);

/* --- exchanges: the thread's side -------------------------------------------------------------------------------------------- */

void exchange_take(struct exchange *ex); /* any thread */
void exchange_give(struct exchange *ex);

/* The head of the answer, copied; again until the first piece was handed over. What h1_check_start() refuses must not come here.
 * 0 or -ENOMEM. */
int exchange_start(struct exchange *ex, int status, struct slice reason,
                   const struct http_header *headers, size_t n, uint64_t length);

/* Hands over a piece, the head before the first. GIL held, and given away while the client is slow. 0; -EPIPE: the connection is broken,
 * or was given up; -ENOMEM. */
int exchange_write(struct exchange *ex, PyObject *bytes);
/* The same for a piece whose successor, or exchange_end(), comes at once: the loop is not told yet, and nobody waits. */
int exchange_add(struct exchange *ex, PyObject *bytes);
/* The answer's head says no length, but n bytes of body will come: to be called before the first. */
void exchange_total(struct exchange *ex, uint64_t n);
/* The same for memory of ours; takes piece in any case. is_last: exchange_end() comes at once, as with exchange_add(). No GIL needed; to be
 * called without it, as it may wait. */
int exchange_write_piece(struct exchange *ex, struct piece *piece, bool is_last);
struct piece *piece_new(size_t room); /* n = 0; NULL = out of memory */
void piece_free(struct piece *piece); /* without a Python object */

/* Nothing follows: the loop finishes the answer, and the request is over for it; what else the thread does is its own affair. Or: there is
 * no answer, or it cannot be finished. `later`: the loop is told when the thread is free again, which is to come at once. Any GIL state. */
void exchange_end(struct exchange *ex, bool later);
void exchange_fail(struct exchange *ex, bool later);

/* The thread will not answer: when it is free again, set->returned(ex) tells the loop, and exchange_part() is to follow. Nothing may have
 * been handed over. Any GIL state. */
void exchange_return(struct exchange *ex);

/* The request that this thread answers gets so long, as by h1_limit(). False: there is none. GIL held. */
bool exchange_limit_here(int64_t ms);

/* Waits until there are unread bytes of the body: 1, 0 at its end, -EPIPE where the client is gone. No GIL. Only one thread at a time may
 * be in it, or look at what it found: ex->in[in_start..in_end). */
int exchange_read(struct exchange *ex);

/* Drops Python objects that were sent. GIL held; may run Python. */
void exchanges_collect(struct exchanges *s);

/* The body as a file (input.c): new. The request's thread, GIL held, as for the next two. One of them ends it: after that ex is not used. */
PyObject *input_new(struct wsgi_names *n, struct exchange *ex);
void input_end(PyObject *input); /* nobody can read it any more */
/* the thread is done, and all of the body is there: it stays while input does */
void input_keep(PyObject *input);

/* --- private to the folder ----------------------------------------------------------------------------------------------------- */

/* bytes.c */
/* The thread goes on; it has ended; it has ended, and a file's bytes are still on their way; it gives the request back. */
enum bytes_next { BYTES_MORE, BYTES_END, BYTES_SENDING, BYTES_RETURN };
enum bytes_next bytes_to_client(struct exchange *ex); /* the loop's side of a post: h is there */
void
bytes_drop(struct exchange *ex); /* what was handed over and is not wanted any more; lock held */
/* takes what h1_body() has; lock held, or not handed over. 0 or -ENOMEM */
int bytes_receive(struct exchange *ex);
void bytes_wake(struct exchange *ex);                    /* lock held */
void *room_take(struct exchange *ex, size_t n);          /* aligned; NULL where it is used up */
void exchange_posted(struct post *post, PyObject *loop); /* exchange.c: struct post's fn */

/* names.c: GIL held */
struct wsgi_names *wsgi_names_new(const struct http_app *http);
void wsgi_names_free(struct wsgi_names *n);

#define WSGI_STRINGS(X)                                                                            \
    X(CONTENT_LENGTH) X(CONTENT_TYPE) X(PATH_INFO) X(QUERY_STRING) X(RAW_URI) X(REMOTE_ADDR) X(REMOTE_PORT) X(REQUEST_METHOD) \
    X(REQUEST_URI) X(SCRIPT_NAME) X(SERVER_NAME) X(SERVER_PORT) X(SERVER_PROTOCOL) X(SERVER_SOFTWARE) X(close) X(fileno) X(raw) X(read) X(tell)

enum { WSGI_METHODS = 8 };

struct wsgi_names {
    PyObject *module;
    PyTypeObject *start_type, *write_type, *input_type, *file_type; /* borrowed from module */
    /* ringcorn.log.request_failed(label, exception, what, client_is_gone, request_id) */
    PyObject *report;
    PyObject *request_id;     /* the context variable ringcorn.log.request_id */
    PyObject *request_id_key; /* "ringcorn.request_id" */
    /* "ringcorn.route", by which the application may say what to count a request as */
    PyObject *route_key;
    PyObject *disconnected; /* class ClientDisconnected(ConnectionResetError) */
    PyObject *input_key;    /* "wsgi.input" */
    PyObject *scheme_key;   /* "wsgi.url_scheme" */
    PyObject *https;
    PyObject *template;   /* environ, with what is the same for all requests */
    PyObject *version_10; /* "HTTP/1.0" */
    PyObject *methods[WSGI_METHODS];
#define X(name) PyObject *s_##name;
    WSGI_STRINGS(X)
#undef X
    PyObject *file_types[3]; /* FileIO, and what buffers one: BufferedReader, BufferedRandom */
    struct wsgi_cache *cache;
    /* of the last request: */
    PyObject *client, *server_name, *server_port; /* str */
    unsigned server_port_number;
};

PyObject *wsgi_method(struct wsgi_names *n, struct slice method); /* new: str */
/* "HTTP_ACCEPT" for "accept": 1 and *key new; 0 for a name that must not pass; -1 with an exception set. */
int wsgi_key(struct wsgi_names *n, struct slice name, PyObject **key);
PyObject *wsgi_value(struct wsgi_names *n, struct slice name, struct slice value); /* new: str */

PyObject *environ_new(struct wsgi *w, const struct exchange *ex, PyObject *input); /* new */

/* start_response, and write: bound to one request. */
struct start {
    PyObject_HEAD
    vectorcallfunc call;
    struct wsgi_names *names;
    struct exchange *ex; /* NULL once over */
    uint64_t sent;       /* bytes of body */
    bool is_counted;     /* the body may not be longer than Content-Length */
};

struct write {
    PyObject_HEAD
    vectorcallfunc call;
    struct start *start; /* new */
};

struct start *start_new(struct wsgi_names *n, struct exchange *ex); /* new */
/* Hands over a piece of the body. 0; 1: no more is wanted, the client is gone; -1 with an exception set: it is not bytes, the head is not
 * there yet, it goes beyond Content-Length. may_wait: as exchange_write(), else as exchange_add(). */
int start_send(struct start *start, PyObject *bytes, bool may_wait);
bool start_is_bodiless(const struct start *start); /* no byte of a body is sent: HEAD, 204, 304 */

/* Where result is a file_wrapper around a regular file: sends it. 1: all was sent; 2: the client is gone; -1 with an exception set;
 * 0: iterate it. */
int file_send(struct start *start, PyObject *result);

void call_serve(struct exchange *ex); /* exchange.serve: calls the application */

extern PyType_Spec input_spec, start_spec, write_spec, file_spec;

#endif

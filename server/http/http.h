/* http.h: HTTP/1.1 (RFC 9110, RFC 9112) between connections and an application.
 *
 *   h1.c         the life of one connection: one request at a time, timeouts, keep-alive, drain
 *   h1_head.c    request heads in: llhttp, and the strictness that llhttp lacks
 *   h1_check.c   what a request line and headers mean together
 *   h1_body.c    request bodies in, back-pressure
 *   chunked.c    the chunked coding
 *   h1_write.c   answers out: framing, checks of what the application sends; h1_more.c  103, trailers
 *   h1_ws.c      a connection that became a WebSocket (its frames: ws/)
 *   static.c     files below a folder, answered here (`static`)
 *   preconditions.c  If-Match and its like, Range; mime.c  types by name
 *   health.c     the paths that a supervisor asks      exposition.c  the one that Prometheus asks
 *   streams.c    event streams when a worker leaves
 *   gate.c       how many requests the application has at once, and for how long
 *   status.c     status lines, Date and Server
 *   access.c     the access log                   request_id.c  what names a request in logs
 *   tally.c      what requests leave in the metrics
 *   forwarded.c  what trusted proxies say in headers of who asks, and for what
 *   chars.c      what a byte may be
 *
 * One request is in hand per connection; the next (pipelined) one is parsed only when its answer is
 * done.
 *
 *     READING_HEAD --begin()--> IN_HAND --h1_end()--> READING_HEAD, or lingering close
 *                                  `--h1_ws_accept()--> WEBSOCKET --h1_end()--> lingering close
 *
 * Runs on the loop thread only, with or without the GIL; knows no Python. The callbacks of struct
 * http_app are called while bytes are parsed, so they must only note what happened (asgi/ links the
 * request into a list that the Python phase works off). */
#ifndef RINGCORN_HTTP_H
#define RINGCORN_HTTP_H

#include "conf/conf.h"
#include "metrics/metrics.h"
#include "net/net.h"
#include "ws/ws.h"

struct h1;
struct http_app;

struct http_header {
    struct slice name;  /* lower case in requests */
    struct slice value; /* without surrounding white space */
};

/* What a trusted proxy says (proxy.headers), as far as it says it. Slices as those of http_request. */
struct http_forwarded {
    struct net_address client; /* family AF_UNSPEC: as the connection has it */
    uint16_t server_port;      /* 0: as the connection has it */
    struct slice server;       /* the name that was asked; n == 0: as the connection has it */
    struct slice root_path; /* percent-encoded, without a slash at its end; p NULL: as configured */
};

/* The request in hand. Slices point into the connection's input block: valid from begin() to
 * h1_head_done(). */
struct http_request {
    struct slice method; /* "GET" */
    struct slice target; /* as on the wire */
    struct slice path;   /* before '?', of absolute-form targets too; "*" for OPTIONS * */
    struct slice query;  /* behind '?', "" where there is none */
    struct http_header *headers;
    unsigned headers_n;
    unsigned char version_minor; /* HTTP/1.x: 0 or 1 */
    bool is_head;
    bool has_body; /* Content-Length > 0 or chunked */
    bool expects_continue;
    bool is_https;           /* the client's scheme: by TLS, or as a trusted proxy says */
    bool is_forwarded;       /* something in forwarded is said */
    bool takes_trailers;     /* TE: trailers, and HTTP/1.1 */
    bool is_websocket;       /* asks for one, as RFC 6455 section 4.2.1 wants it */
    uint64_t content_length; /* UINT64_MAX: none (chunked or no body) */
    struct slice id;         /* n == 0: requests have none; valid until h1_end() */
    struct http_forwarded forwarded;
};

enum http_event {
    HTTP_BODY = 1,    /* h1_want_body() was asked and there are body bytes, or its end */
    HTTP_DRAINED = 2, /* output fell below the low-water mark after a write returned HTTP_FULL */
    /* The client has closed its side, the connection broke, or a timeout closed it. Comes twice
     * when a half-closed connection breaks: h1_is_broken() is then true, HTTP_DRAINED never comes. */
    HTTP_GONE = 4,
    HTTP_MESSAGE = 8, /* h1_ws_next() found none, and now there is one */
    /* It took longer than timeouts.request, and HTTP_GONE came with it: what the application does
     * for it should end. h1_overdue() tells what the client was told. */
    HTTP_OVERDUE = 16,
    /* The worker leaves, and the event stream that answers the request should end: as if the client
     * had gone, but what is sent still gets through. h1_end_stream() ends it. */
    HTTP_LEAVE = 32,
};

/* gate.c's. */
struct http_gate {
    struct list waiting; /* for limits.concurrency, oldest first */
    struct list left;    /* of them, those whose client has gone: they end in the next turn */
    struct list timed;   /* in hand and not overdue, oldest first; with timeouts.request */
    struct list due;     /* those whose own time has come */
    struct list streams; /* streams.c: that are to be told to leave, soonest first */
    unsigned waiting_n;  /* of the first two */
    unsigned running;    /* that the application has; counted with limits.concurrency */
    uint64_t refused;    /* 503 in their place, ever */
    unsigned unsaid;     /* of those, since the last line about them */
    int64_t said_ns;
};

/* What http/ keeps for all connections of a loop: private, embedded because there is no request
 * without it. */
struct http_own {
    char lines[96];           /* "server: ...\r\ndate: ...\r\n" as far as they are wanted */
    uint8_t server_n, date_n; /* bytes of each in lines */
    int64_t date_until_ns;    /* monotonic: the date changes then */
    struct buf headers;       /* conf->headers as they are sent */
    struct head *free_heads;  /* parsed heads kept for reuse */
    struct h1_req *free_reqs; /* and requests */
    unsigned free_heads_n, free_reqs_n;
    struct access *access;   /* access.c's */
    uint64_t id_state[2];    /* request_id.c's */
    struct statics *statics; /* static.c's; NULL: there are none */
    struct http_gate gate;
    struct ws_shared ws;
};

struct http_app {
    void *self; /* the app's own */
    void (*begin)(struct http_app *app, struct h1 *h);
    void (*event)(struct http_app *app, struct h1 *h, unsigned events);
    /* A buffer given to h1_write() is no longer needed. May be called inside h1_write(). */
    void (*release)(struct http_app *app, void *owner);
    /* The connection is gone; what the app hung on h1_conn_data() must go too. */
    void (*conn_freed)(struct http_app *app, void *conn_data);
    struct net *net;
    const struct conf *conf;
    int access_fd; /* -1 = no access log; without a ring (base/log.h) its lines go there */
    /* Gets each line of the access log too, without its newline; NULL = nobody. */
    void (*on_access)(struct http_app *app, struct slice line);
    /* the app's to set: limits.concurrency and timeouts.request hold, and http_turn() is called */
    bool is_gated;
    bool serves_websockets; /* the app's to set; else Upgrade is ignored */
    bool answers_health;    /* health.c does, on every connection; set by http_init() */
    bool is_unready;        /* health.ready says 503, and no more */
    bool answers_metrics;   /* exposition.c does */
    bool draining;          /* answers carry Connection: close; set by http_drain() */
    unsigned in_hand;       /* requests that are not ended, those that wait to begin among them */
    uint64_t begun;         /* requests so far */
    unsigned websockets;    /* of those in hand, WebSockets that were accepted */
    struct http_own own;    /* http's, from http_init() on */
};

/* Fills in ops for net_init(). The caller has set the callbacks, conf, net and access_fd; app
 * outlives the net. 0 or -ENOMEM. */
int http_init(struct http_app *app, struct conn_ops *ops);
/* After net_fini(). */
void http_fini(struct http_app *app);

/* Begins the drain: idle connections are closed, those that were asked or made within the last moments a
 * little later, so that a request which is on its way is answered; busy ones get Connection: close with
 * their answer, event streams HTTP_LEAVE. */
void http_drain(struct http_app *app);

/* The same for connections that are is_guest (net/net.h), after some have become that. */
void http_leave_guests(struct http_app *app);
/* For struct loop_client, behind net_turn(): requests that waited begin, or get 503; what is overdue
 * ends. Calls begin() and event(). */
void http_turn(struct http_app *app);
int64_t http_next_ns(const struct http_app *app); /* when that is due: 0 = at once, -1 = never */
/* Nobody waits to begin any longer: 503. Returns how many did. */
unsigned http_refuse_waiting(struct http_app *app);

enum http_health { HTTP_HEALTH_NONE, HTTP_HEALTH_LIVE, HTTP_HEALTH_READY };

/* Which of the paths health.live and health.ready a request asks: GET and HEAD. */
enum http_health http_health(const struct conf *conf, const struct http_request *req);

/* Is it metrics.path, and are metrics told? GET and HEAD. */
bool http_asks_metrics(const struct conf *conf, const struct http_request *req);
/* Answers it with what metrics_area() holds, in the format that the client takes. Before h1_head_done(); the caller ends the request. */
void h1_answer_metrics(struct h1 *h, const struct metrics *metrics);

/* --- the request ------------------------------------------------------------------------------ */
const struct http_request *h1_request(const struct h1 *h);

/* Two slots for the app: one a request (NULL at begin()), one a connection (NULL when it opens). */
void **h1_data(struct h1 *h);
void **h1_conn_data(struct h1 *h);

/* Addresses of both ends of the connection, conn_peer() and conn_local(). family AF_UNSPEC when the
 * peer is already gone. Valid until the next call of either, for any connection. */
const struct sockaddr_storage *h1_peer(struct h1 *h);
const struct sockaddr_storage *h1_local(struct h1 *h);

/* Whether the connection is TLS (https, wss), and what may be known of that: new, for
 * tls_about_give() of net/tls.h; NULL where there is none, or no memory. */
bool h1_is_tls(const struct h1 *h);
struct tls_about *h1_tls_about(struct h1 *h);

/* Percent escapes decoded; one that is none stays. to: room for s.n bytes. Returns how many it took. Any
 * thread. */
size_t http_unescape(char *to, struct slice s);

/* The app has taken what it needs of the head: the slices of h1_request() end here (its numbers and
 * flags stay), and the input block can serve the body or go back. */
void h1_head_done(struct h1 *h);

/* For the metrics: when the application was called (CLOCK_MONOTONIC). Before its answer is complete. */
void h1_called(struct h1 *h, int64_t at_ns);

/* Body bytes that have arrived and were not taken (valid until h1_body_consumed() or the return to
 * the loop). */
struct slice h1_body(struct h1 *h);
/* They were copied; reading goes on when it had stopped at the high-water mark (64 KiB). */
void h1_body_consumed(struct h1 *h);
/* The next trailer of a body that is complete, under http.trailers; false: there is no more. rest: zeroed at first. What is no trailer's
 * business (framing, routing, credentials) is passed over. Valid until h1_end(). */
bool h1_body_trailer(const struct h1 *h, struct slice *rest, struct http_header *out);
/* All of the body has arrived (behind what h1_body() holds comes no more). */
bool h1_body_is_complete(const struct h1 *h);
/* The app waits for more: sends 100 Continue where it was expected and not sent yet, and asks for
 * one HTTP_BODY event. The body timeout runs only while the app waits. */
void h1_want_body(struct h1 *h);
/* The app waits no longer (its receive() was cancelled): no event, no timeout. */
void h1_leave_body(struct h1 *h);

/* The client has closed its side or the connection broke: receive() answers http.disconnect. */
bool h1_is_gone(const struct h1 *h);
/* Nothing can be sent any more: send() raises OSError. */
bool h1_is_broken(const struct h1 *h);
/* Shake mode: the client goes. */
void h1_hang_up(struct h1 *h);

/* What the client was told in place of an answer that took longer than timeouts.request; 0: the
 * answer had begun, and the connection was closed. */
int h1_overdue(const struct h1 *h);
/* It has so long, from its head on, to be answered, in place of what it had; 0 = no limit. name: where that is said, for the log; constant.
 * Without memory for it, it keeps what it had, and the log says so. The loop's thread, any GIL state; a request in hand. */
void h1_limit(struct h1 *h, int64_t ms, const char *name);
/* Where its time is said: "timeouts.request". NULL: it has no limit. */
const char *h1_timeout_name(const struct h1 *h);

/* --- the answer ------------------------------------------------------------------------------- */
enum http_write {
    HTTP_OK = 0,
    /* taken, and more than 64 KiB are unsent: wait for HTTP_DRAINED before the next */
    HTTP_FULL = 1,
    HTTP_BROKEN = -1,     /* the connection is gone; nothing was taken */
    HTTP_BAD_STATUS = -2, /* not 200..999, or control characters in its phrase */
    HTTP_BAD_NAME = -3,   /* a header name that is no token; *bad tells which */
    HTTP_BAD_VALUE = -4,  /* CR, LF or NUL in a value; *bad tells which */
    /* Content-Length twice with different values, or no number; *bad tells which */
    HTTP_BAD_LENGTH = -5,
    /* Transfer-Encoding is the server's to choose ("chunked" alone is accepted and dropped) */
    HTTP_BAD_TRANSFER = -6,
    /* more body than Content-Length: nothing of this piece was sent, connection will close */
    HTTP_TOO_LONG = -7,
    /* the end came before Content-Length was reached: connection will close */
    HTTP_TOO_SHORT = -8,
    HTTP_BAD_PROTOCOL = -9, /* a subprotocol that is no token, or that the client did not offer */
    HTTP_BAD_PROTOCOL_HEADER = -10, /* Sec-WebSocket-Protocol among the headers; *bad tells which */
};

/* Takes status and headers (copied). Nothing is sent before the first h1_write(). After an error
 * nothing has changed. */
enum http_write h1_start(struct h1 *h, int status, const struct http_header *headers, size_t n,
                         size_t *bad);

/* The same with a phrase of the application's own behind the status; reason.p NULL = the usual one. */
enum http_write h1_start_as(struct h1 *h, int status, struct slice reason,
                            const struct http_header *headers, size_t n, size_t *bad);

/* What h1_start_as() would say of such a head, for those who must know before: HTTP_OK or an error
 * that is not HTTP_BROKEN. Any thread. */
enum http_write h1_check_start(int status, struct slice reason, const struct http_header *headers,
                               size_t n, size_t *bad);

/* One piece of the body. owner NULL: the bytes are copied now. Else they may be held until
 * release(owner) (which is always called, once, also on errors): http decides by size (pieces up to
 * 16 KiB are copied). is_last ends the answer; where no Content-Length was given and the first
 * piece is the last, its length is sent; else chunked (1.1) or until close (1.0). HEAD, 204 and 304
 * send no body but count it. */
enum http_write h1_write(struct h1 *h, const char *p, size_t n, void *owner, bool is_last);

/* The same for n bytes of a regular file from `at` on, which go from the page cache to the socket (net/file.c). Takes fd, also on
 * errors. HTTP_DRAINED comes when nearly all of it is with the kernel; a file that turns out to be shorter breaks the connection. */
enum http_write h1_write_file(struct h1 *h, int fd, uint64_t at, uint64_t n, bool is_last);

/* Bytes of the body that Content-Length leaves to be sent; UINT64_MAX: none was given. */
uint64_t h1_length_left(const struct h1 *h);

/* 103 Early Hints (RFC 8297) with these headers, in front of the answer's head. Left out where it comes too late, or to HTTP/1.0.
 * HTTP_OK or HTTP_BAD_VALUE. */
enum http_write h1_hint(struct h1 *h, const struct http_header *headers, size_t n);

/* Headers behind a body whose last piece was not said to be the last (RFC 9112 section 7.1.2); is_last ends the answer. Dropped where
 * the body is not chunked. Errors as of h1_start(); HTTP_BAD_TRANSFER: one that says something of the framing. */
enum http_write h1_trailers(struct h1 *h, const struct http_header *headers, size_t n, bool is_last,
                            size_t *bad);

bool h1_is_started(const struct h1 *h); /* h1_start() succeeded */
int h1_status(const struct h1 *h);      /* then; else 0 */
/* bytes of the head were queued: too late for another status */
bool h1_is_sending(const struct h1 *h);
bool h1_is_finished(const struct h1 *h); /* the last piece was taken */

/* After HTTP_LEAVE: ends an answer that has begun and is not finished, as one that is whole. Nothing for
 * others. */
void h1_end_stream(struct h1 *h);

/* Answers by ourselves with a small text body ("Internal Server Error"), if h1_is_sending() is
 * still false; drops what h1_start() took. */
void h1_fail(struct h1 *h, int status);

/* The application is done with the request; always called, exactly once per begin(), as the last
 * call for it. An answer that is not finished closes the connection (after h1_fail() it is
 * finished). Writes the access log. *h may be freed inside. */
void h1_end(struct h1 *h);

/* --- WebSockets: h1_ws.c ------------------------------------------------------------------------
 * For requests whose is_websocket is set; h1_start() and h1_write() answer them as others (a denial)
 * as long as they are not accepted. */

/* 101. subprotocol.p NULL: none. Headers that are the handshake's own are left out. From here on
 * h1_start() and h1_write() are not to be called. */
enum http_write h1_ws_accept(struct h1 *h, struct slice subprotocol,
                             const struct http_header *headers, size_t n, size_t *bad);

/* The next message, the caller's to free(); NULL: none, and HTTP_MESSAGE or HTTP_GONE will tell
 * unless it is over. */
struct ws_message *h1_ws_next(struct h1 *h);

/* Copied, or held until release(owner) as in h1_write(). HTTP_BROKEN: not open. */
enum http_write h1_ws_send(struct h1 *h, bool is_text, const char *p, size_t n, void *owner);

/* Begins the closing handshake; HTTP_GONE tells its end. A no-op unless open. code: one that
 * ws_code_is_valid(). */
void h1_ws_close(struct h1 *h, unsigned code, struct slice reason);

bool h1_ws_is_open(const struct h1 *h); /* h1_ws_send() would send */
/* No message comes any more but those that wait: *code and *reason are the peer's, or 1005, 1006.
 * Before it is accepted: the client is gone, or has been denied. *reason is valid until h1_end(). */
bool h1_ws_is_over(const struct h1 *h, unsigned *code, struct slice *reason);

#endif

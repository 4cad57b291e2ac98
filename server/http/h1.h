/* h1.h: one HTTP/1.1 connection, private to http/. */
#ifndef RINGCORN_HTTP_H1_H
#define RINGCORN_HTTP_H1_H

#include "chunked.h"
#include "http.h"

enum {
    H1_HEADERS_KEPT_MAX = 1024, /* headers when limits.headers is off */
    H1_LIMIT_OFF = 1024 * 1024, /* request line and head when their limits are off */
    H1_LEADING_CRLF_MAX = 2,    /* empty lines before a request (RFC 9112 section 2.2) */
    H1_HEADS_KEPT = 128,        /* parsed heads kept for reuse, some 3 KiB each */
    H1_REQS_KEPT = 1024,        /* struct h1_req kept for reuse, some 530 bytes each */
    H1_BODY_HIGH = 64 * 1024,   /* untaken body bytes above which reading stops */
    /* an untaken rest of a body up to this is read and dropped to keep the connection */
    H1_SKIP_BODY_MAX = 64 * 1024,
    H1_SKIP_BODY_MS = 2000,       /* if it comes within this */
    H1_RATE_GRACE_MS = 10 * 1000, /* the minimum rate is asked for after so much waiting */
    H1_DRAIN_IDLE_MS = 500,       /* an idle connection closes so long after the drain began */
    H1_DRAIN_FRESH_MS = 3000,     /* one that has not asked yet */
    H1_WHAT_MAX = 48,             /* of "GET /path" kept for log lines */
    /* room behind the application's headers for ours and the framing */
    H1_SEND_SLACK = 456,
    H1_ID_MAX = 64,  /* bytes of a request's id */
    H1_ID_MADE = 32, /* of one that is made */
};

/*     HEAD --begin()--> IN_HAND --h1_end()--> HEAD, or SKIP_BODY -> HEAD, or CLOSED
 * HEAD       idle, or part of a head has come
 * IN_HAND    between begin() and h1_end(); the connection is pinned
 * WEBSOCKET  from the 101 to h1_end(); pinned too
 * SKIP_BODY  the answer is done, the rest of the request's body is still coming
 * CLOSED     the connection closes by itself */
enum h1_state { H1_HEAD, H1_IN_HAND, H1_WEBSOCKET, H1_SKIP_BODY, H1_CLOSED, H1_STATES };

struct head; /* h1_head.c: parser and headers, while a head is incomplete or in use by the app */

/* h1_ws.c: a WebSocket, from its opening request on; {0} where a request is none. */
struct h1_ws {
    struct ws ws;
    struct ws_message *last; /* not yet taken: a ring, its next is the first; or NULL */
    size_t queued_bytes;
    unsigned queued;
    uint16_t code; /* in WS_OVER: the peer's, or WS_ABNORMAL */
    uint8_t state; /* enum ws_state */
    uint8_t reason_n;
    uint8_t ending;  /* WS_CLOSED or WS_FAILED was read: nothing more is */
    bool want;       /* the application waits for HTTP_MESSAGE */
    bool has_sent;   /* since the last tick */
    bool in_hand;    /* the application took a message, and has not asked for the next */
    bool is_leaving; /* the drain's Close is due, and waits for the answer to what has come */
    char *reason; /* the peer's; in WS_ASKED the subprotocols it offers: a list that ends in NUL */
    union {
        char accept[WS_ACCEPT_LEN]; /* in WS_ASKED */
        struct {
            /* When what is due; 0 = never. One deadline of the connection stands for the earliest. */
            int64_t tick_ns, pong_ns, close_ns, drain_ns;
        };
    };
};

/* One request, from its first byte until the next is awaited: kept apart so that an idle connection
 * is small. */
struct h1_req {
    union {
        struct h1 *h;
        struct h1_req *next; /* in the free list */
    };
    struct list link;     /* gate.c: waiting or left; streams.c: to be told to leave */
    struct list timed;    /* gate.c: has timeouts.request; or the time of its own has come */
    struct own_time *own; /* gate.c: that, in place of timeouts.request; or NULL */
    struct http_request req;
    void *data;
    /* for the access log, from h1_head_done() on: what is kept of the head; of the answer's head */
    struct access_kept *kept, *kept_sent;
    char *host; /* a Host that had to be put together: forwarded.c's */
    int64_t began_ns;
    union {
        int64_t leave_ns;   /* streams.c, while it is answered */
        uint64_t skip_from; /* body_got when SKIP_BODY began */
    };
    /* body in: in->data[body_start..body_end) is decoded and not taken; conn.in_start is where
     * undecoded input begins */
    uint32_t body_start, body_end;
    union {
        struct {
            union {
                uint64_t body_left;     /* of Content-Length, bytes not arrived */
                struct chunked chunked; /* is_chunked_in; {0} at first, as that */
            };
            uint64_t body_got;   /* decoded so far */
            int64_t want_ns;     /* since when the app waits */
            int64_t waited_ns;   /* sum of such times before */
            struct buf trailers; /* as they came; http.trailers */
        };
        struct h1_ws ws; /* req.is_websocket: it has no body, whatever the answer is */
    };
    int64_t called_ns; /* when the application was called; 0 = not yet */
    /* answer out */
    uint64_t length; /* its Content-Length, UINT64_MAX = not given */
    uint64_t sent;   /* body bytes taken from the app */
    char *out;       /* room for the head that was taken and not yet sent */
    uint32_t out_n, out_room;
    uint16_t status;
    uint16_t overdue_status; /* gate.c */
    uint8_t what_n;
    uint8_t method;                                  /* enum metrics_method */
    bool is_tallied;                                 /* in the metrics */
    bool is_chunked_in, is_body_done, is_head_taken; /* head_done() was called */
    bool keep_alive;                                 /* what the client asked for */
    bool client_closes; /* it said Connection: close (or is 1.0): nothing will follow */
    bool continue_due;
    bool want; /* the app waits for HTTP_BODY */
    bool told_gone;
    bool started, sending, finished;
    bool no_body; /* HEAD, 204, 304 */
    bool chunked_out, until_close;
    bool in_trailers; /* the last chunk is sent, trailers follow it */
    bool close;       /* the connection ends with this answer */
    bool is_static;   /* a file of `static` is being sent: the application knows nothing of it */
    bool is_event_stream, is_leaving; /* streams.c */
    bool is_quiet;                    /* no line in the access log */
    bool is_noted;                    /* it has its line */
    bool is_counted, is_waiting;      /* gate.c: the application has it; it waits for that */
    bool is_overdue;                  /* gate.c */
    bool refused;           /* we answered in the application's place: to it the client is gone */
    char what[H1_WHAT_MAX]; /* "GET /path", perhaps cut, for log lines */
    char id[];              /* req.id: H1_ID_MAX bytes where requests have one, else none */
};

struct h1 {
    struct conn conn; /* first: net/ hands us this */
    struct http_app *app;
    void *conn_data;
    struct head *head;
    uint32_t fed; /* bytes of an incomplete head that llhttp has seen */
    /* behind the request line's LF, 0 = not yet seen; relative to in_start, as fed */
    uint32_t line_end;
    uint8_t state;    /* enum h1_state */
    uint8_t crlfs;    /* empty lines before this request */
    bool asked;       /* a request was begun on this connection */
    struct h1_req *r; /* NULL while nothing of a request has come */
};

static inline struct h1 *
h1_of(struct conn *c)
{
    return (struct h1 *)c;
}

/* h1.c */
/* Answers and closes in the application's place; begin() may have been called or not. */
void h1_refuse(struct h1 *h, int status);
void h1_begin(struct h1 *h);
/* Closes at once, so that the client sees an answer that is cut off for what it is. */
void h1_reset(struct h1 *h);
/* The application is told that the client is gone; a second time when a connection that was half
 * closed breaks, for those who wait to send. */
void h1_tell_gone(struct h1 *h);

/* h1_head.c */
/* parses what is in the block; ends in begin(), a refusal, or waits for more */
void h1_head_feed(struct h1 *h);
uint32_t h1_head_max(const struct http_app *app); /* bytes of the longest head that is accepted */
void h1_head_give(struct h1 *h);
int h1_req_take(struct h1 *h); /* 0 or -ENOMEM; a no-op where there is one */
void h1_req_give(struct h1 *h);
void h1_pools_fini(struct http_app *app);

/* h1_check.c: 0 or the status to refuse with. */
int h1_check_request_line(struct h1 *h, struct slice line);
int h1_check_headers(struct h1 *h);
/* Takes the next element off a comma-separated list; false at its end. Elements may be empty. */
bool h1_list_next(struct slice *list, struct slice *element);

bool h1_is_authority(struct slice s); /* host, host:port, [v6], [v6]:port */

/* forwarded.c */
/* enum conf_proxy_header, 0 for other names. name: lower case. */
unsigned forwarded_kind(struct slice name);
/* Takes what a trusted peer says in headers of these kinds; host: the Host header or NULL. */
void forwarded_take(struct h1 *h, unsigned kinds, struct http_header *host);

/* h1_body.c */
int h1_body_decode(struct h1 *h);   /* 0, or the status to refuse with */
void h1_body_read(struct h1 *h);    /* reads and decodes as far as there is room */
void h1_body_deliver(struct h1 *h); /* HTTP_BODY, if it is waited for and there is something */
void h1_body_release(struct h1 *h); /* the block goes back when nothing in it is needed */
/* bytes that have not arrived; UINT64_MAX = unknown */
uint64_t h1_body_missing(const struct h1 *h);

/* h1_write.c: our own answer with a short text; queued, nothing closed. */
void h1_write_own(struct h1 *h, int status, bool close);
void h1_write_misplaced(struct h1 *h); /* 400, and closed: plain HTTP where TLS is spoken */
void h1_write_continue(struct h1 *h);  /* 100 Continue, if it is still due */

char *h1_put_header(char *p, const struct http_header *v, enum http_write *err);
/* Server, Date, as far as the application has not, and what the configuration adds. There is room. Returns the end. */
char *h1_put_own(char *p, struct http_app *app, bool has_server, bool has_date);

/* h1_more.c: a field of that name may be a trailer. */
bool h1_may_trail(struct slice name);

/* health.c: answers and ends the request in hand, if it is one of its own. */
bool h1_answer_health(struct h1 *h);

/* static.c: answers the request in hand, if it asks for a file of `static`; ends it, or leaves that to h1.c (h1_req.is_static). */
bool h1_answer_static(struct h1 *h);
/* gate.c */
/* Whether the application may have the request now. Else it waits for its turn, or has been answered with
 * 503 and is over: *h may be freed. */
bool gate_passes(struct h1 *h);
void gate_leave(struct h1 *h);       /* h1_end(), or a WebSocket is accepted: it counts no more */
void gate_client_left(struct h1 *h); /* of one that waits */

/* streams.c */
void stream_begins(struct h1 *h); /* its head is sent */
void streams_drain(struct http_app *app);
void streams_turn(struct http_app *app);
int64_t streams_next_ns(const struct http_app *app); /* -1 = never */

/* h1_ws.c */
void h1_ws_configure(struct http_app *app);
/* Of a request with Upgrade: websocket. is_upgrade: Connection says so too. 0 or the status to
 * refuse with. */
int h1_ws_check(struct h1 *h, bool is_upgrade);
void h1_ws_fini(struct h1_ws *w); /* of a request with is_websocket */
void h1_ws_readable(struct h1 *h);
void h1_ws_timeout(struct h1 *h);
void h1_ws_broken(struct h1 *h);
void h1_ws_part(struct h1 *h); /* in h1_end() */
void h1_ws_drain(struct http_app *app);
void h1_ws_begin(struct h1 *h); /* h1.c: IN_HAND -> WEBSOCKET */

/* tally.c */
void tally_begin(struct h1 *h);  /* while the head is there */
void tally_answer(struct h1 *h); /* the answer is complete, or will never be; once a request */
void tally_turn(struct http_app *app);
void tally_message(bool is_in, size_t n);
void tally_closed(unsigned code);
/* request_id.c */
int request_id_init(struct http_app *app); /* 0 or -errno */
void request_id_take(struct h1 *h);        /* of a request whose head is whole */
/* The header of the answer, if it is to have one and headers have none. Room: H1_SEND_SLACK has it. Returns the end. */
char *request_id_put(char *p, const struct h1 *h, const struct http_header *headers, size_t n);

/* access.c */
int access_init(struct http_app *app); /* 0 or -ENOMEM */
void access_fini(struct http_app *app);
/* Its line, once: when the answer is complete, so that of an answer that a client has there is a line, whatever becomes of the worker
 * while the application does something behind it; else when the request ends. */
void access_note(struct h1 *h);
void access_keep(struct h1 *h); /* copies what it needs of the head before the block goes */
/* And of the answer's head. */
void access_keep_sent(struct h1 *h, const struct http_header *headers, size_t n);
static inline bool
access_is_on(const struct http_app *app)
{
    return app->access_fd >= 0 || app->on_access != NULL;
}

#endif

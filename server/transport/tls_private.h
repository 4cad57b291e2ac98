/* tls_private.h: what the files of a TLS transport share with each other and with nobody else.
 *
 * Two objects make one TLS connection of Python's: towards the transport below a protocol (struct
 * pytls, asyncio's SSLProtocol), towards the application a transport (struct pytls_transport).
 *
 *   the socket's transport <- write, close ... - struct pytls <-----> struct pytls_transport <- app
 *          - received bytes, connection_made ... ->        - data_received, eof_received ... ------>
 *
 * What encrypts is Python's _ssl: an SSLObject between two ssl.MemoryBIO, made by the context's
 * wrap_bio(). So verification, SNI callbacks, sessions, ALPN and key logs are what they are in
 * asyncio, with whatever OpenSSL that module was linked with; and nothing of it is called through
 * Python code once the handshake is done.
 *
 * Everything on the loop's thread with the GIL held; _ssl gives the GIL away while it works. */
#ifndef RINGCORN_TLS_PRIVATE_H
#define RINGCORN_TLS_PRIVATE_H

#include "transport/transport.h"

#include "base/base.h"

/* --- names and objects of Python (tls_names.c) -------------------------------------------------- */

/* clang-format off */
#define TLS_NAMES(X)                                                                                \
    X(_check_handshake_timeout) X(_check_shutdown_timeout) X(_force_close) X(_resume) X(_sslobj)    \
    X(abort) X(buffer_updated) X(call_exception_handler) X(call_later) X(call_soon) X(cancel)       \
    X(cipher) X(close) X(compression) X(connection_lost) X(connection_made) X(data_received)        \
    X(debug) X(do_handshake) X(done) X(eof_received) X(exc_info) X(exception) X(get_buffer)         \
    X(get_debug) X(get_extra_info) X(get_write_buffer_size) X(getpeercert) X(is_closing) X(message) X(pause_reading)         \
    X(pause_writing) X(peercert) X(pending) X(protocol) X(read) X(resume_reading)                   \
    X(resume_writing) X(server_hostname) X(server_side) X(set_exception) X(set_result)              \
    X(ssl_object) X(sslcontext) X(time) X(transport) X(unwrap) X(warning) X(wrap_bio) X(write)
/* clang-format on */

/* An object of the module that the connections keep alive. */
struct pytls_names {
    PyObject_HEAD
    PyTypeObject *protocol_type, *transport_type;
    PyObject *buffered_protocol;            /* asyncio.BufferedProtocol */
    PyObject *logger;                       /* asyncio's */
    PyObject *memory_bio, *ssl_object_type; /* of ssl */
    PyObject *certificate_error, *zero_return;
    PyObject *again; /* tuple: "come back with more bytes" */
    PyObject *cancelled_error;
    PyObject *zero; /* the int */
#define X(name) PyObject *s_##name;
    TLS_NAMES(X)
#undef X
};

/* --- one connection ----------------------------------------------------------------------------- */

/*   UNWRAPPED -> HANDSHAKE -> WRAPPED -> FLUSHING -> SHUTDOWN, and from each of them back to UNWRAPPED, which
 * after the first step means: over. FLUSHING: what was written goes out before our close_notify does. */
enum pytls_phase { TLS_UNWRAPPED, TLS_HANDSHAKE, TLS_WRAPPED, TLS_FLUSHING, TLS_SHUTDOWN };

/* What the application was told last. */
enum pytls_told { TOLD_NOTHING, TOLD_MADE, TOLD_EOF, TOLD_LOST };

/* How the application takes what was received. */
enum pytls_app { APP_PLAIN, APP_BUFFERED, APP_TLS };

/* How the transport below takes what is sent. */
enum pytls_below { BELOW_FOREIGN, BELOW_STREAM, BELOW_TLS };

enum {
    TLS_RECORD_HEAD = 5,
    TLS_RECORD_MAX = TLS_RECORD_HEAD + 16 * 1024 + 2048,
    /* The most that is decrypted into one piece, and so given to data_received() at once; and the
     * most that is fed at once where it can be decrypted. */
    TLS_READ_MAX = 128 * 1024,
    /* So much is encrypted, or somewhat more, before it is handed to the transport below: what may
     * pile up there, and stays in the processor's cache. */
    TLS_WRITE_SLICE = 128 * 1024,
    /* What a transport that is not ours reads into. */
    TLS_BUFFER_SIZE = 64 * 1024,
    /* asyncio.constants */
    TLS_LOST_WRITES_SAID = 5,
    TLS_READ_HIGH = 256 * 1024,
    TLS_WRITE_HIGH = 512 * 1024,
};

/* The stream of TLS records as it is fed, so that _ssl is asked for data only where a whole record waits: to be
 * told "come back later" by an exception costs more than to decrypt. Counts may be too high (records of a handshake
 * are consumed unseen), never too low; they are right again when _ssl has said that there is nothing. */
struct pytls_records {
    unsigned char head[TLS_RECORD_HEAD];
    unsigned head_n; /* of the record that is incomplete */
    size_t body_left;
    size_t size;  /* of it, once its head is known */
    size_t count; /* whole records not consumed */
    size_t bytes; /* their size, which bounds what they decrypt to */
    bool is_lost; /* not records of TLS; _ssl will say so. count is then 1 or 0 */
};

/* Plaintext that could not be encrypted yet. */
struct pytls_backlog {
    PyObject **items; /* new: bytes */
    size_t first, count, cap;
    size_t offset; /* of the first, how much is done */
    size_t bytes;  /* all together that are left */
};

struct pytls {
    PyObject_HEAD
    struct pytls_names *names; /* new */
    PyObject *loop;            /* new */
    PyObject *app;       /* new: the application's protocol; NULL once the connection is lost */
    PyObject *below;     /* new: the transport below, from connection_made() to connection_lost() */
    PyObject *transport; /* new: struct pytls_transport, until connection_lost() */
    PyObject *waiter;    /* new: a future, until the handshake is done; or NULL */
    PyObject *context;   /* new: ssl.SSLContext */
    PyObject *sslobj;    /* new: ssl.SSLObject, or a subclass of the application's */
    PyObject *incoming, *outgoing; /* new: ssl.MemoryBIO */
    /* new: bound methods. read and write are those of _ssl._SSLSocket where is_inner. */
    PyObject *fn_feed, *fn_read, *fn_write, *fn_drain;
    PyObject *handshake_timer, *shutdown_timer;     /* new: handles, or NULL */
    PyObject *handshake_timeout, *shutdown_timeout; /* new: seconds */
    PyObject *peercert, *cipher, *compression;      /* new: once asked for */
    PyObject *buffer, *buffer_view; /* new: of a transport below that is not ours; or NULL */
    PyObject *weakrefs;

    /* What this object exports as a buffer while a method of _ssl runs. */
    struct {
        void *p;
        Py_ssize_t n;
        bool is_readonly;
    } window;

    struct pytls_records records;
    struct pytls_backlog backlog;
    Py_ssize_t write_high, write_low, read_high, read_low;
    double handshake_began;
    unsigned lost_writes;
    enum pytls_phase phase;
    enum pytls_told told;
    enum pytls_app app_kind;
    enum pytls_below below_kind;
    bool is_inner;       /* the SSLObject's read() and write() are the class's own: gone past */
    bool is_established; /* the handshake was done; stays */
    bool is_server;
    bool is_eof;                              /* the transport below has received it */
    bool is_reading_paused;                   /* by the application */
    bool is_below_paused;                     /* by us: pause_reading() */
    bool is_writing_paused;                   /* by the transport below */
    bool is_app_paused;                       /* by us: pause_writing() */
    bool is_closed_by_app;                    /* nothing is delivered any more */
    bool is_pushing, is_reading, is_flushing; /* on the stack */
    bool may_have_output; /* the BIO towards the transport below may hold something */
    bool is_done;         /* close_notify was made: the transport below is to be closed */
    bool is_close_asked;  /* done */
};

struct pytls_transport {
    PyObject_HEAD
    /* Of the classes of asyncio.transports that this one derives from: references, all NULL here. */
    PyObject *base_slots[8];
    struct pytls *tls; /* new */
    PyObject *dict, *weakrefs;
    bool is_closed;
};

extern PyType_Spec pytls_spec, pytls_transport_spec;

/* Adds the types to the module: 0, or -1 with an exception set (types.c calls it). */
int pytls_add_types(PyObject *module);

static inline size_t
size_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* --- tls.c: the life of a connection. All may run Python; 0, or -1 with an exception set ---------- */

/* close() and _force_close() of the application's transport. exception: borrowed; NULL: none. */
int pytls_close(struct pytls *t);
int pytls_abort(struct pytls *t, PyObject *exception);

/* The other side has said that it will send nothing more. */
int pytls_close_notified(struct pytls *t);

/* Ends the connection: tells the transport below, and the log or the loop's exception handler.
 * exception: borrowed. */
int pytls_fatal(struct pytls *t, PyObject *exception, const char *message);
/* So with the pending exception, which is gone then. One that is no Exception (SystemExit,
 * KeyboardInterrupt, CancelledError) stays pending: -1. */
int pytls_fail(struct pytls *t, const char *message);

/* FLUSHING or SHUTDOWN may go on. */
int pytls_flush(struct pytls *t);

/* As get_extra_info(): new. */
PyObject *pytls_extra(struct pytls *t, PyObject *name, PyObject *fallback);
void pytls_set_app(struct pytls *t, PyObject *app); /* asks the class only: cannot fail */

/* object.name(), or object.name(argument) where that is not NULL; the result is dropped. */
int pytls_call(PyObject *object, PyObject *name, PyObject *argument);

/* --- tls_pipe.c: bytes through _ssl. All may run Python; 0, or -1 with an exception set ----------- */

/* Received bytes into the BIO. */
int pytls_feed(struct pytls *t, const char *p, size_t n);
int pytls_records_settle(struct pytls *t); /* the handshake is done: what is left in the BIO? */

/* Decrypts what there is and delivers it as far as it is wanted. An Exception ends the connection
 * instead of being raised. */
int pytls_deliver(struct pytls *t);
/* And all that follows from it: answers, flow control, a shutdown that had to wait. */
int pytls_read(struct pytls *t);

/* Decrypts what there is into nothing. */
int pytls_discard(struct pytls *t);

/* One piece of plaintext. data: anything with a buffer, borrowed. */
int pytls_write(struct pytls *t, PyObject *data);
int pytls_write_many(struct pytls *t, PyObject *iterable);

/* Encrypts as much of the backlog as the transport below wants, and hands it over. */
int pytls_push(struct pytls *t);
/* Hands over what lies encrypted. */
int pytls_drain(struct pytls *t);

/* bytes: borrowed; what follows the first offset bytes. */
int pytls_backlog_add(struct pytls *t, PyObject *bytes, size_t offset);
void pytls_backlog_clear(struct pytls *t);

Py_ssize_t pytls_write_size(struct pytls *t); /* written and not handed over; or -1 */
Py_ssize_t pytls_read_size(struct pytls *t);  /* received and not decrypted; or -1 */

/* Flow control: pause_writing() and resume_writing() of the application. */
int pytls_control_app(struct pytls *t);
/* pause_reading() and resume_reading() of the transport below. */
int pytls_control_below(struct pytls *t);

/* Is the pending exception "come back when more bytes have come"? It is gone then. */
bool pytls_is_again(struct pytls *t);

/* --- tls_transport.c ----------------------------------------------------------------------------- */

/* new. tls: borrowed */
PyObject *pytls_transport_new(struct pytls *tls);
void pytls_transport_close(PyObject *transport); /* it is known to be closed: no warning */

static inline struct pytls *
pytls_of(PyObject *object)
{
    return (struct pytls *)object;
}

#endif

/* endpoint.h: what datagram sockets and pipes have in common: what datagram.c and pipe*.c share with each other and with nobody else.
 *
 *     open ──close()──> closing ──queue empty──> lost ──connection_lost() has run──> closed
 *       └────────────error, abort()───────────────┘
 *
 * The descriptor is watched (io_watch_in(): one completion an arrival) from connection_made() to the closing; where reading is paused,
 * arrivals are only noted. Output is handed to the kernel at once; what finds no room is queued, and io_room() says when to
 * go on. Nothing is ever given to the kernel to keep. */
#ifndef RINGCORN_TRANSPORT_ENDPOINT_H
#define RINGCORN_TRANSPORT_ENDPOINT_H

#include "transport/state.h"

#include <sys/types.h>

struct endpoint;

/* What the kinds do differently. */
struct endpoint_kind {
    /* With the GIL, as a source's run(); `events`: enum endpoint_event. May run Python. */
    int (*ready)(struct endpoint *t, unsigned events);
    /* Drops what is queued. May run Python. */
    void (*drop)(struct endpoint *t);
    bool writes; /* has a write buffer */
};

enum endpoint_event {
    ENDPOINT_IN = 1,   /* there may be something to receive, or an error */
    ENDPOINT_ROOM = 2, /* there may be room */
};

enum { ENDPOINT_HIGH = 64 * 1024 }; /* of the write buffer, asyncio's */

struct endpoint {
    PyObject_HEAD
    PyObject *extra; /* new: asyncio.BaseTransport's slot _extra */
    PyObject *dict, *weakrefs;

    const struct endpoint_kind *kind;
    struct loop_source source;
    struct io *io;            /* the loop's thread: in which the operations are armed */
    struct io_op watch, room; /* the loop's thread */
    unsigned events;          /* the loop's thread: enum endpoint_event */

    struct transport_state *st;
    PyObject *st_owner;
    PyObject *loop;            /* new; stays until the end, unlike asyncio's _loop */
    PyObject *file, *protocol; /* new, or NULL once closed; file: the socket or pipe object */
    int fd;
    int conn_lost; /* connection_lost() is called or will be; asyncio's count of writes after it */

    size_t queued; /* bytes that wait for room, as get_write_buffer_size() tells them */
    size_t high, low;

    bool wants_watch, wants_room; /* of the io */
    bool is_deaf; /* the loop's thread: the descriptor was closed by somebody else */
    /* the loop's thread: the peer has gone or the descriptor has failed: receive until it says so */
    bool may_end;
    bool is_unwatched; /* never to be watched */
    bool has_more;     /* what may have arrived was not received to its end */
    bool is_paused;    /* reading */
    bool is_closing;
    bool is_ended; /* connection_lost() will be called, or was */
    bool is_closed;
    bool is_protocol_paused;
};

static inline struct endpoint *
endpoint_of(PyObject *object)
{
    return (struct endpoint *)object;
}

static inline bool
endpoint_reads(const struct endpoint *t)
{
    return !t->is_paused && !t->is_closing && t->conn_lost == 0;
}

/* A new object of the type, attached to the loop, with no more than that. loop, file, protocol, extra (a dict, changed in place; or None): borrowed. NULL
 * with an exception set. */
struct endpoint *endpoint_new(PyObject *module, PyTypeObject *type,
                              const struct endpoint_kind *kind, PyObject *loop, PyObject *file,
                              PyObject *protocol, PyObject *extra);

/* Has connection_made(), _start() and then the waiter (or None) called soon, in this order. -1 with an exception set. May run Python. */
int endpoint_start(struct endpoint *t, PyObject *waiter);

/* Instead, where something has failed: as if it had never been; the file stays the caller's. The pending exception stays set. */
void endpoint_undo(struct endpoint *t);

/* The part of making one that pipes have in common: extra["pipe"], no blocking. -1: ValueError with the refusal where it is no fifo, socket or
 * character device, or another exception. */
int endpoint_begin_pipe(struct endpoint *t, PyObject *pipe, const char *refusal, mode_t *mode);

/* OSError for errno; -1. */
static inline int
endpoint_fail_errno(void)
{
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* What is wanted of the io has changed. */
void endpoint_changed(struct endpoint *t);
/* run() is to be called with these events. The loop's thread. */
void endpoint_again(struct endpoint *t, unsigned events);

/* protocol.name(): whatever it returns. -1 with an exception set. May run Python. */
int endpoint_call_protocol(struct endpoint *t, PyObject *name);
/* loop.call_soon(function, ...). 0 or -1. */
int endpoint_soon(struct endpoint *t, PyObject *function, PyObject *arg);
/* loop.call_exception_handler({message, exception, transport, protocol}) for the pending exception, which is taken. SystemExit and
 * KeyboardInterrupt stay set and give -1. May run Python. */
int endpoint_tell(struct endpoint *t, const char *message);
/* logger.<level>(format, self) where the loop is in debug mode. 0 or -1. May run Python. */
int endpoint_debug(struct endpoint *t, const char *level, const char *format);
/* As the two above, by asyncio's rule for a transport that an exception ends: the pending one, which is taken and returned in *exception (new). is_quiet: it
 * goes to the log in debug mode alone. -1: SystemExit or KeyboardInterrupt, or what telling has raised; then it is set and *exception NULL. */
int endpoint_fatal(struct endpoint *t, const char *message, bool is_quiet, PyObject **exception);

/* pause_writing() and resume_writing(), where the buffer has passed a mark. 0 or -1. May run Python. */
int endpoint_maybe_pause(struct endpoint *t);
int endpoint_maybe_resume(struct endpoint *t);

/* Nothing is read and nothing waits for room from here on; connection_lost(exception) is called soon. exception: borrowed, or Py_None. 0 or -1. May run Python. */
int endpoint_end(struct endpoint *t, PyObject *exception);
/* Calls protocol.connection_lost() and closes the file. -1 with what that has raised. May run Python. */
int endpoint_lose(struct endpoint *t, PyObject *exception);

/* Methods of every kind, to be put at the beginning of a type's methods; of those that write. */
#define ENDPOINT_METHODS                                                                           \
    { "get_extra_info", (PyCFunction)(void (*)(void))endpoint_get_extra_info, METH_FASTCALL | METH_KEYWORDS, \
      "get_extra_info(name, default=None)" },                                                      \
    { "set_protocol", endpoint_set_protocol, METH_O, NULL },                                       \
    { "get_protocol", endpoint_get_protocol, METH_NOARGS, NULL },                                  \
    { "is_closing", endpoint_is_closing, METH_NOARGS, NULL },                                      \
    { "_call_connection_lost", endpoint_call_connection_lost, METH_O, NULL }, \
    { "_start", endpoint_meth_start, METH_NOARGS, NULL }
#define ENDPOINT_READ_METHODS                                                                      \
    { "is_reading", endpoint_is_reading, METH_NOARGS, NULL },                                      \
    { "pause_reading", endpoint_pause_reading, METH_NOARGS, NULL },                                \
    { "resume_reading", endpoint_resume_reading, METH_NOARGS, NULL },                              \
    { "_read_again", endpoint_read_again, METH_NOARGS, NULL }
#define ENDPOINT_WRITE_METHODS                                                                     \
    { "get_write_buffer_size", endpoint_get_size, METH_NOARGS, NULL },                             \
    { "get_write_buffer_limits", endpoint_get_limits, METH_NOARGS, NULL },                         \
    { "set_write_buffer_limits", (PyCFunction)(void (*)(void))endpoint_set_limits, METH_VARARGS | METH_KEYWORDS, \
      "set_write_buffer_limits(high=None, low=None)" }

PyObject *endpoint_get_extra_info(PyObject *self, PyObject *const *args, Py_ssize_t n,
                                  PyObject *kwnames);
PyObject *endpoint_set_protocol(PyObject *self, PyObject *protocol);
PyObject *endpoint_get_protocol(PyObject *self, PyObject *unused);
PyObject *endpoint_is_closing(PyObject *self, PyObject *unused);
PyObject *endpoint_call_connection_lost(PyObject *self, PyObject *exception);
PyObject *endpoint_meth_start(PyObject *self, PyObject *unused);
PyObject *endpoint_is_reading(PyObject *self, PyObject *unused);
PyObject *endpoint_pause_reading(PyObject *self, PyObject *unused);
PyObject *endpoint_resume_reading(PyObject *self, PyObject *unused);
PyObject *endpoint_read_again(PyObject *self, PyObject *unused);
PyObject *endpoint_get_size(PyObject *self, PyObject *unused);
PyObject *endpoint_get_limits(PyObject *self, PyObject *unused);
PyObject *endpoint_set_limits(PyObject *self, PyObject *args, PyObject *kwargs);

/* The attribute _sock or _pipe. Tests set it to None to say that the transport has no file to close. */
PyObject *endpoint_get_file(PyObject *self, void *unused);
int endpoint_set_file(PyObject *self, PyObject *file, void *unused);

/* tp_* of every kind; a kind's own traverse and clear call these. */
int endpoint_traverse(struct endpoint *t, visitproc visit, void *arg);
void endpoint_clear(struct endpoint *t);
void endpoint_finalize(PyObject *self);
bool endpoint_dealloc_begin(PyObject *self); /* false: it lives on */
void endpoint_dealloc_end(PyObject *self);
PyObject *endpoint_repr_of_pipe(PyObject *self);
/* " closed", " closing" or "". */
const char *endpoint_state(const struct endpoint *t);

#define ENDPOINT_MEMBERS                                                                           \
    { "__dictoffset__", Py_T_PYSSIZET, offsetof(struct endpoint, dict), Py_READONLY, NULL },       \
    { "__weaklistoffset__", Py_T_PYSSIZET, offsetof(struct endpoint, weakrefs), Py_READONLY, NULL }, \
    { "_loop", T_OBJECT, offsetof(struct endpoint, loop), Py_READONLY, NULL },                     \
    { "_protocol", T_OBJECT, offsetof(struct endpoint, protocol), Py_READONLY, NULL }

/* --- datagram.c, pipe_read.c, pipe_write.c --- */
extern PyType_Spec datagram_spec, read_pipe_spec, write_pipe_spec;
PyObject *datagram_make(PyObject *module, PyObject *const *args, Py_ssize_t n);
PyObject *read_pipe_make(PyObject *module, PyObject *const *args, Py_ssize_t n);
PyObject *write_pipe_make(PyObject *module, PyObject *const *args, Py_ssize_t n);

#endif

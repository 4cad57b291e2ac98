/* state.h: the types and constants of transport/, one set a module: what its files share with each other and with nobody else.
 *
 * All with the GIL held. */
#ifndef RINGCORN_TRANSPORT_STATE_H
#define RINGCORN_TRANSPORT_STATE_H

#include "transport/transport.h"

/* Interned strings: attribute, method and key names. */
/* clang-format off */
#define TRANSPORT_NAMES(X)                                                                         \
    X(_attach) X(_buffer) X(_call_connection_lost) X(_detach) X(_eof) X(_limit) X(_paused) X(_start_reading)           \
    X(_stream_reader_wr) X(_transport) X(_transports) X(_waiter) X(cancelled) X(feed_data)         \
    X(pause_reading)                \
    X(buffer_updated) X(call_exception_handler) X(call_soon) X(close) X(connection_lost)           \
    X(connection_made) X(data_received) X(debug) X(done) X(eof_received) X(exc_info) X(exception)   \
    X(fileno) X(get_buffer) X(getpeername) X(getsockname) X(message) X(pause_writing) X(peername)   \
    X(protocol) X(resume_writing) X(set_exception) X(set_result) X(shutdown) X(socket) X(sockname)  \
    X(transport) X(warning)                                                                        \
    X(_read_again) X(_start) X(datagram_received) X(error_received) X(pipe) X(sendto)
/* clang-format on */

/* Of asyncio.transports._FlowControlMixin: _extra comes first, the rest is overridden by our types and stays empty. */
enum { TRANSPORT_SLOTS = 5 };

enum { TRANSPORT_SCRATCH = 256 * 1024 };

struct transport_state {
    PyTypeObject *stream_type;
    PyTypeObject *datagram_type, *read_pipe_type, *write_pipe_type;
    PyObject *buffered_protocol; /* asyncio.BufferedProtocol */
    PyObject *transport_socket;  /* asyncio.trsock.TransportSocket */
    PyObject *set_nodelay;       /* asyncio.base_events._set_nodelay */
    PyObject *set_result;        /* asyncio.futures._set_result_unless_cancelled */
    PyObject *logger;            /* asyncio.log.logger */
    /* asyncio.StreamReaderProtocol and .StreamReader; the functions of theirs that stream_feed.c stands for */
    PyObject *reader_protocol_type, *reader_type;
    PyObject *reader_data_received, *reader_feed_data;
    PyObject *minus_one;
    char *scratch; /* transport_scratch_take() */
#define X(name) PyObject *s_##name;
    TRANSPORT_NAMES(X)
#undef X
};

/* Of the module. *owner is new and keeps it alive; NULL with an exception set. */
struct transport_state *transport_state_take(PyObject *module, PyObject **owner);

/* Where bytes arrive that are copied at once: TRANSPORT_SCRATCH bytes, the caller's until they are given back. NULL with MemoryError set. */
char *transport_scratch_take(struct transport_state *st);
void transport_scratch_give(struct transport_state *st, char *scratch);

/* object.name(arg): new. may run Python. */
static inline PyObject *
transport_call(PyObject *object, PyObject *name, PyObject *arg)
{
    PyObject *args[] = { object, arg };
    return PyObject_VectorcallMethod(name, args, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static inline PyObject *
transport_call0(PyObject *object, PyObject *name)
{
    return PyObject_VectorcallMethod(name, &object, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

/* --- the types (stream.c) --- */
extern PyType_Spec stream_spec;
/* stream_transport(loop, sock, protocol, waiter, extra, server): a function of the module. */
PyObject *stream_make(PyObject *module, PyObject *const *args, Py_ssize_t n);

/* --- datagrams and pipes (endpoint.c) --- */
int endpoint_add_types(PyObject *module, struct transport_state *st);

#endif

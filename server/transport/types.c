/* types.c: the types and constants of transport/, one set a module.
 *
 * The set lives in a capsule in the module's dict: the module's own state is py/'s. Each transport has a reference to it.
 *
 * Runs on:  any thread with the GIL. */
#include "transport/state.h"
#include "transport/tls_private.h"

#include <stdlib.h>

static const char state_name[] = "_ringcorn._transport_state";

enum { GIVEN_BACK = 1024 * 1024 };

/* glibc gives free memory at the end of its heap back to the kernel from 128 KiB on, until it has seen longer blocks come and go: then from twice their size
 * on (mallopt(3), the dynamic M_MMAP_THRESHOLD). The bytes of a few long messages are more than that: they went back with each and came again, page by page,
 * for as much CPU time as all the rest (streams, 100 KiB: 77 us, 42 without). So it is shown one. Any program that reads a file as long does the same. */
static void
show_long_block(void)
{
    void *volatile block = malloc(GIVEN_BACK); /* volatile: or the compiler leaves it out */
    free(block);
}

char *
transport_scratch_take(struct transport_state *st)
{
    char *scratch = st->scratch;
    st->scratch = NULL;
    if (UNLIKELY(scratch == NULL)) {
        show_long_block();
        scratch = malloc(TRANSPORT_SCRATCH);
        if (scratch == NULL)
            PyErr_NoMemory();
    }
    return scratch;
}

void
transport_scratch_give(struct transport_state *st, char *scratch)
{
    if (st->scratch == NULL)
        st->scratch = scratch;
    else
        free(scratch); /* another loop's, or a callback that has turned a loop */
}

static void
state_free(PyObject *capsule)
{
    struct transport_state *st = PyCapsule_GetPointer(capsule, state_name);
    if (st == NULL)
        return;
    Py_XDECREF(st->stream_type);
    Py_XDECREF(st->datagram_type);
    Py_XDECREF(st->read_pipe_type);
    Py_XDECREF(st->write_pipe_type);
    Py_XDECREF(st->buffered_protocol);
    Py_XDECREF(st->transport_socket);
    Py_XDECREF(st->set_nodelay);
    Py_XDECREF(st->set_result);
    Py_XDECREF(st->logger);
    Py_XDECREF(st->reader_protocol_type);
    Py_XDECREF(st->reader_type);
    Py_XDECREF(st->reader_data_received);
    Py_XDECREF(st->reader_feed_data);
    Py_XDECREF(st->minus_one);
#define X(name) Py_XDECREF(st->s_##name);
    TRANSPORT_NAMES(X)
#undef X
    free(st->scratch);
    free(st);
}

/* module.name: new. */
static PyObject *
import_from(const char *module_name, const char *name)
{
    PY_OWNED PyObject *module = PyImport_ImportModule(module_name);
    return module != NULL ? PyObject_GetAttrString(module, name) : NULL;
}

static int
state_fill(struct transport_state *st)
{
#define X(name)                                                                                    \
    if ((st->s_##name = PyUnicode_InternFromString(#name)) == NULL)                                \
        return -1;
    TRANSPORT_NAMES(X)
#undef X
    if ((st->buffered_protocol = import_from("asyncio", "BufferedProtocol")) == NULL ||
        (st->transport_socket = import_from("asyncio.trsock", "TransportSocket")) == NULL ||
        (st->set_nodelay = import_from("asyncio.base_events", "_set_nodelay")) == NULL ||
        (st->set_result = import_from("asyncio.futures", "_set_result_unless_cancelled")) == NULL ||
        (st->logger = import_from("asyncio.log", "logger")) == NULL ||
        (st->reader_protocol_type = import_from("asyncio", "StreamReaderProtocol")) == NULL ||
        (st->reader_type = import_from("asyncio", "StreamReader")) == NULL ||
        (st->reader_data_received =
             PyObject_GetAttr(st->reader_protocol_type, st->s_data_received)) == NULL ||
        (st->reader_feed_data = PyObject_GetAttr(st->reader_type, st->s_feed_data)) == NULL ||
        (st->minus_one = PyLong_FromLong(-1)) == NULL)
        return -1;
    return 0;
}

/* A type that is an asyncio.Transport, and of those that loop.sendfile() can fill in for. The slots of that class are in our struct, right behind the
 * header: TRANSPORT_SLOTS. New. */
static PyTypeObject *
add_transport(PyObject *module, PyType_Spec *spec)
{
    PY_OWNED PyObject *base = import_from("asyncio.transports", "_FlowControlMixin");
    if (base == NULL)
        return NULL;
    if (!PyType_Check(base) || ((PyTypeObject *)base)->tp_basicsize !=
                                   sizeof(PyObject) + TRANSPORT_SLOTS * sizeof(PyObject *)) {
        PyErr_SetString(PyExc_SystemError,
                        "asyncio's transports of this Python are not what _ringcorn was made for");
        return NULL;
    }
    PY_OWNED PyObject *bases = PyTuple_Pack(1, base);
    if (bases == NULL)
        return NULL;
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, bases);
    if (type != NULL && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}

/* type.name = value: also what asyncio reads of the class. Steals value. */
static int
set_attr(PyTypeObject *type, const char *name, PyObject *value)
{
    int err = value != NULL ? PyObject_SetAttrString((PyObject *)type, name, value) : -1;
    Py_XDECREF(value);
    return err;
}

static PyObject *
try_native(void)
{
    PY_OWNED PyObject *mode = import_from("asyncio.constants", "_SendfileMode");
    return mode != NULL ? PyObject_GetAttrString(mode, "TRY_NATIVE") : NULL;
}

int
transport_add_types(PyObject *module)
{
    static PyMethodDef functions[] = {
        { "_stream_transport", (PyCFunction)(void (*)(void))stream_make, METH_FASTCALL,
          "_stream_transport(loop, sock, protocol, waiter, extra, server): the transport of a "
          "connected socket." },
        { NULL, NULL, 0, NULL },
    };
    struct transport_state *st = calloc(1, sizeof *st);
    PY_OWNED PyObject *capsule = st != NULL ? PyCapsule_New(st, state_name, state_free) : NULL;
    if (capsule == NULL) {
        free(st);
        return st == NULL ? (PyErr_NoMemory(), -1) : -1;
    }
    if (state_fill(st) < 0 || (st->stream_type = add_transport(module, &stream_spec)) == NULL ||
        set_attr(st->stream_type, "_start_tls_compatible", Py_NewRef(Py_True)) < 0 ||
        set_attr(st->stream_type, "_sendfile_compatible", try_native()) < 0)
        return -1;
    if (PyModule_AddFunctions(module, functions) < 0 || pytls_add_types(module) < 0 ||
        endpoint_add_types(module, st) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "_transport_state", capsule);
}

struct transport_state *
transport_state_take(PyObject *module, PyObject **owner)
{
    PyObject *capsule = PyObject_GetAttrString(module, "_transport_state");
    struct transport_state *st = capsule != NULL ? PyCapsule_GetPointer(capsule, state_name) : NULL;
    if (st == NULL)
        Py_CLEAR(capsule);
    *owner = capsule;
    return st;
}

/* tls_names.c: the names and objects of Python that TLS connections use, one set a module, and the types.
 *
 * The set is an object of the module, so that the collector sees through it; every connection has a reference.
 *
 * Runs on:  any thread with the GIL. */
#include "transport/tls_private.h"

static int
names_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct pytls_names *n = (struct pytls_names *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(n->protocol_type);
    Py_VISIT(n->transport_type);
    Py_VISIT(n->buffered_protocol);
    Py_VISIT(n->logger);
    Py_VISIT(n->memory_bio);
    Py_VISIT(n->ssl_object_type);
    Py_VISIT(n->certificate_error);
    Py_VISIT(n->zero_return);
    Py_VISIT(n->again);
    Py_VISIT(n->cancelled_error);
    return 0;
}

static int
names_clear(PyObject *self)
{
    struct pytls_names *n = (struct pytls_names *)self;
    Py_CLEAR(n->protocol_type);
    Py_CLEAR(n->transport_type);
    Py_CLEAR(n->buffered_protocol);
    Py_CLEAR(n->logger);
    Py_CLEAR(n->memory_bio);
    Py_CLEAR(n->ssl_object_type);
    Py_CLEAR(n->certificate_error);
    Py_CLEAR(n->zero_return);
    Py_CLEAR(n->again);
    Py_CLEAR(n->cancelled_error);
    return 0;
}

static void
names_dealloc(PyObject *self)
{
    struct pytls_names *n = (struct pytls_names *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    names_clear(self);
    Py_CLEAR(n->zero);
#define X(name) Py_CLEAR(n->s_##name);
    TLS_NAMES(X)
#undef X
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot names_slots[] = {
    { Py_tp_dealloc, names_dealloc },
    { Py_tp_traverse, names_traverse },
    { Py_tp_clear, names_clear },
    { 0, NULL },
};

static PyType_Spec names_spec = {
    .name = "_ringcorn._TLSNames",
    .basicsize = sizeof(struct pytls_names),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = names_slots,
};

/* module.name: new. */
static PyObject *
import_from(const char *module_name, const char *name)
{
    PY_OWNED PyObject *module = PyImport_ImportModule(module_name);
    return module != NULL ? PyObject_GetAttrString(module, name) : NULL;
}

static int
names_fill(struct pytls_names *n)
{
#define X(name)                                                                                    \
    if ((n->s_##name = PyUnicode_InternFromString(#name)) == NULL)                                 \
        return -1;
    TLS_NAMES(X)
#undef X
    const struct {
        const char *module, *name;
        PyObject **into;
    } objects[] = {
        { "asyncio", "BufferedProtocol", &n->buffered_protocol },
        { "asyncio", "CancelledError", &n->cancelled_error },
        { "asyncio.log", "logger", &n->logger },
        { "ssl", "MemoryBIO", &n->memory_bio },
        { "ssl", "SSLObject", &n->ssl_object_type },
        { "ssl", "CertificateError", &n->certificate_error },
        { "ssl", "SSLZeroReturnError", &n->zero_return },
    };
    for (size_t i = 0; i < ARRAY_LEN(objects); i++)
        if ((*objects[i].into = import_from(objects[i].module, objects[i].name)) == NULL)
            return -1;
    PY_OWNED PyObject *want_read = import_from("ssl", "SSLWantReadError");
    PY_OWNED PyObject *syscall_error = import_from("ssl", "SSLSyscallError");
    if (want_read == NULL || syscall_error == NULL)
        return -1;
    n->again = PyTuple_Pack(2, want_read, syscall_error);
    n->zero = PyLong_FromLong(0);
    return n->again != NULL && n->zero != NULL ? 0 : -1;
}

/* A type of the module that derives from module_name.name: new. */
static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec, const char *module_name, const char *name)
{
    PY_OWNED PyObject *base = import_from(module_name, name);
    PY_OWNED PyObject *bases = base != NULL ? PyTuple_Pack(1, base) : NULL;
    PyTypeObject *type =
        bases != NULL ? (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, bases) : NULL;
    if (type != NULL && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}

/* The slots of the Python class are in our struct, in a place of their own. */
static int
check_base(PyTypeObject *type)
{
    PyTypeObject *base = type->tp_base; /* borrowed */
    if ((size_t)base->tp_basicsize <= offsetof(struct pytls_transport, tls) &&
        base->tp_dictoffset == 0 && base->tp_weaklistoffset == 0)
        return 0;
    PyErr_Format(PyExc_SystemError, "%s of this Python is not what _ringcorn was made for",
                 base->tp_name);
    return -1;
}

static int
set_attr(PyTypeObject *type, const char *name, PyObject *value)
{
    PY_OWNED PyObject *owned = value;
    return value != NULL ? PyObject_SetAttrString((PyObject *)type, name, value) : -1;
}

static PyObject *
sendfile_mode(void)
{
    PY_OWNED PyObject *modes = import_from("asyncio.constants", "_SendfileMode");
    return modes != NULL ? PyObject_GetAttrString(modes, "FALLBACK") : NULL;
}

int
pytls_add_types(PyObject *module)
{
    PY_OWNED PyObject *ssl = PyImport_ImportModule("ssl");
    if (ssl == NULL) { /* a Python that was built without: asyncio does without TLS too */
        if (!PyErr_ExceptionMatches(PyExc_ImportError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    PY_OWNED PyObject *type = PyType_FromModuleAndSpec(module, &names_spec, NULL);
    PyObject *(*alloc)(PyTypeObject *, Py_ssize_t) = PyType_GenericAlloc;
    PY_OWNED PyObject *names = type != NULL ? alloc((PyTypeObject *)type, 0) : NULL;
    struct pytls_names *n = (struct pytls_names *)names;
    if (n == NULL || names_fill(n) < 0)
        return -1;
    n->protocol_type = add_type(module, &pytls_spec, "asyncio", "BufferedProtocol");
    if (n->protocol_type == NULL)
        return -1;
    n->transport_type =
        add_type(module, &pytls_transport_spec, "asyncio.transports", "_FlowControlMixin");
    if (n->transport_type == NULL || check_base(n->transport_type) < 0 ||
        set_attr(n->transport_type, "_start_tls_compatible", Py_NewRef(Py_True)) < 0 ||
        set_attr(n->transport_type, "_sendfile_compatible", sendfile_mode()) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "_tls_names", names);
}

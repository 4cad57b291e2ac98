/* names.c: the constants of WSGI, made once per worker, and the caches of what clients send again and again: the keys that header names
 * become, and values. Direct-mapped tables of fixed size; long values and secrets (Authorization, Cookie) never enter them.
 *
 * Runs on:  any thread, GIL held. */
#include "wsgi/wsgi.h"

#include <stdlib.h>

enum {
    KEYS = 256, /* powers of two */
    VALUES = 1024,
    KEY_NAME_MAX = 48,
    VALUE_MAX = 160,
};

struct wsgi_cache {
    struct {
        PyObject *key; /* new; NULL where the name must not pass */
        uint8_t n;     /* 0: nothing is here */
        char name[KEY_NAME_MAX];
    } keys[KEYS];
    PyObject *values[VALUES]; /* new: str, or NULL */
};

static const char *const METHODS[WSGI_METHODS] = { "GET",   "POST",   "HEAD",    "PUT",
                                                   "PATCH", "DELETE", "OPTIONS", "TRACE" };

/* --- what is the same for all requests --------------------------------------------------------------------------------------- */

/* Steals value, also on failure. */
static int
set(PyObject *dict, const char *key, PyObject *value)
{
    PY_OWNED PyObject *name = PyUnicode_InternFromString(key);
    int err = name == NULL || value == NULL ? -1 : PyDict_SetItem(dict, name, value);
    Py_XDECREF(value);
    return err;
}

static PyObject *
script_name_new(const char *root_path)
{
    size_t n = root_path != NULL ? strlen(root_path) : 0;
    while (n > 0 && root_path[n - 1] == '/') /* "/" is not allowed, and "/a/" would make "/a//b" */
        n--;
    return PyUnicode_DecodeLatin1(n > 0 ? root_path : "", (Py_ssize_t)n, "strict");
}

static PyObject *
import_from(const char *module_name, const char *name)
{
    PY_OWNED PyObject *module = PyImport_ImportModule(module_name);
    return module != NULL ? PyObject_GetAttrString(module, name) : NULL;
}

static int
fill_template(struct wsgi_names *n, const struct conf *conf)
{
    PyObject *t = n->template = PyDict_New();
    if (t == NULL || set(t, "REQUEST_METHOD", Py_NewRef(n->methods[0])) < 0 ||
        set(t, "SCRIPT_NAME", script_name_new(conf->root_path)) < 0 ||
        set(t, "PATH_INFO", PyUnicode_FromString("")) < 0 ||
        set(t, "QUERY_STRING", PyUnicode_FromString("")) < 0 ||
        set(t, "RAW_URI", PyUnicode_FromString("")) < 0 ||
        set(t, "REQUEST_URI", PyUnicode_FromString("")) < 0 ||
        set(t, "SERVER_NAME", PyUnicode_FromString("")) < 0 ||
        set(t, "SERVER_PORT", PyUnicode_FromString("")) < 0 ||
        set(t, "SERVER_PROTOCOL", PyUnicode_FromString("HTTP/1.1")) < 0 ||
        set(t, "SERVER_SOFTWARE", PyUnicode_FromString("ringcorn/" RINGCORN_VERSION)) < 0 ||
        set(t, "REMOTE_ADDR", PyUnicode_FromString("")) < 0 ||
        set(t, "REMOTE_PORT", PyUnicode_FromString("")) < 0 ||
        set(t, "wsgi.version", Py_BuildValue("(ii)", 1, 0)) < 0 ||
        set(t, "wsgi.url_scheme", PyUnicode_InternFromString("http")) < 0 ||
        set(t, "wsgi.input", Py_NewRef(Py_None)) < 0 ||
        set(t, "wsgi.input_terminated", Py_NewRef(Py_True)) < 0 ||
        set(t, "wsgi.errors", import_from("sys", "stderr")) < 0 ||
        set(t, "wsgi.multithread", Py_NewRef(Py_True)) < 0 ||
        set(t, "wsgi.multiprocess", Py_NewRef(conf->workers > 1 ? Py_True : Py_False)) < 0 ||
        set(t, "wsgi.run_once", Py_NewRef(Py_False)) < 0 ||
        set(t, "wsgi.file_wrapper", Py_NewRef((PyObject *)n->file_type)) < 0)
        return -1;
    /* One key more and away again: the table has grown, and its copies have room for a request's headers. */
    PY_OWNED PyObject *spare = PyUnicode_FromString("_");
    return spare == NULL || PyDict_SetItem(t, spare, Py_None) < 0 ? -1 : PyDict_DelItem(t, spare);
}

static PyTypeObject *
type_of(PyObject *module, const char *name)
{
    PyObject *type = PyObject_GetAttrString(module, name);
    Py_XDECREF(type); /* the module keeps it, and we the module */
    return (PyTypeObject *)type;
}

static int
names_fill(struct wsgi_names *n, const struct conf *conf)
{
    static const char *const file_types[] = { "FileIO", "BufferedReader", "BufferedRandom" };
    if ((n->module = PyImport_ImportModule("_ringcorn")) == NULL ||
        (n->start_type = type_of(n->module, "_StartResponse")) == NULL ||
        (n->write_type = type_of(n->module, "_Write")) == NULL ||
        (n->input_type = type_of(n->module, "_Input")) == NULL ||
        (n->file_type = type_of(n->module, "FileWrapper")) == NULL ||
        (n->disconnected = PyObject_GetAttrString(n->module, "ClientDisconnected")) == NULL ||
        (n->report = import_from("ringcorn.log", "request_failed")) == NULL ||
        (n->request_id = import_from("ringcorn.log", "request_id")) == NULL ||
        (n->request_id_key = PyUnicode_InternFromString("ringcorn.request_id")) == NULL ||
        (n->route_key = PyUnicode_InternFromString("ringcorn.route")) == NULL ||
        (n->input_key = PyUnicode_InternFromString("wsgi.input")) == NULL ||
        (n->scheme_key = PyUnicode_InternFromString("wsgi.url_scheme")) == NULL ||
        (n->https = PyUnicode_InternFromString("https")) == NULL ||
        (n->version_10 = PyUnicode_InternFromString("HTTP/1.0")) == NULL)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(file_types); i++) {
        if ((n->file_types[i] = import_from("io", file_types[i])) == NULL)
            return -1;
    }
    for (size_t i = 0; i < WSGI_METHODS; i++) {
        if ((n->methods[i] = PyUnicode_InternFromString(METHODS[i])) == NULL)
            return -1;
    }
#define X(name)                                                                                    \
    if ((n->s_##name = PyUnicode_InternFromString(#name)) == NULL)                                 \
        return -1;
    WSGI_STRINGS(X)
#undef X
    if ((n->cache = calloc(1, sizeof(*n->cache))) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return fill_template(n, conf);
}

struct wsgi_names *
wsgi_names_new(const struct http_app *http)
{
    struct wsgi_names *n = calloc(1, sizeof(*n));
    if (n == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (names_fill(n, http->conf) < 0) {
        wsgi_names_free(n);
        return NULL;
    }
    return n;
}

void
wsgi_names_free(struct wsgi_names *n)
{
    for (size_t i = 0; n->cache != NULL && i < KEYS; i++)
        Py_XDECREF(n->cache->keys[i].key);
    for (size_t i = 0; n->cache != NULL && i < VALUES; i++)
        Py_XDECREF(n->cache->values[i]);
    free(n->cache);
    for (size_t i = 0; i < WSGI_METHODS; i++)
        Py_XDECREF(n->methods[i]);
    for (size_t i = 0; i < ARRAY_LEN(n->file_types); i++)
        Py_XDECREF(n->file_types[i]);
#define X(name) Py_XDECREF(n->s_##name);
    WSGI_STRINGS(X)
#undef X
    Py_XDECREF(n->template);
    Py_XDECREF(n->version_10);
    Py_XDECREF(n->request_id);
    Py_XDECREF(n->request_id_key);
    Py_XDECREF(n->route_key);
    Py_XDECREF(n->input_key);
    Py_XDECREF(n->scheme_key);
    Py_XDECREF(n->https);
    Py_XDECREF(n->client);
    Py_XDECREF(n->server_name);
    Py_XDECREF(n->server_port);
    Py_XDECREF(n->report);
    Py_XDECREF(n->disconnected);
    Py_XDECREF(n->module); /* last: the types are its */
    free(n);
}

/* --- what requests bring --------------------------------------------------------------------------------------------------------- */

PyObject *
wsgi_method(struct wsgi_names *n, struct slice method)
{
    for (size_t i = 0; i < WSGI_METHODS; i++) {
        if (slice_is(method, METHODS[i]))
            return Py_NewRef(n->methods[i]);
    }
    return PyUnicode_DecodeLatin1(method.p, (Py_ssize_t)method.n, "strict");
}

/* "HTTP_" + the name in upper case, "-" as "_"; new. NULL without an exception where the name has a "_" itself: "X_Forwarded_For" would
 * pass for what only the proxy may say. name: lower case. */
static PyObject *
key_new(struct slice name)
{
    char text[KEY_NAME_MAX + 8];
    MEM_OWNED char *on_heap = NULL;
    char *p = text;
    if (memchr(name.p, '_', name.n) != NULL)
        return NULL;
    if (name.n > KEY_NAME_MAX && (p = on_heap = malloc(name.n + 8)) == NULL)
        return PyErr_NoMemory();
    bool is_bare = slice_is(name, "content-type") || slice_is(name, "content-length");
    size_t k = is_bare ? 0 : 5;
    memcpy(p, "HTTP_", 5);
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        p[k++] = (char)(c == '-' ? '_' : c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    }
    return PyUnicode_DecodeLatin1(p, (Py_ssize_t)k, "strict");
}

int
wsgi_key(struct wsgi_names *n, struct slice name, PyObject **key)
{
    if (UNLIKELY(name.n > KEY_NAME_MAX)) {
        *key = key_new(name);
        return *key != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
    }
    size_t at = slice_hash(0, name) & (KEYS - 1);
    if (UNLIKELY(n->cache->keys[at].n != name.n ||
                 memcmp(n->cache->keys[at].name, name.p, name.n) != 0)) {
        PyObject *made = key_new(name);
        if (made == NULL && PyErr_Occurred())
            return -1;
        if (made != NULL)
            PyUnicode_InternInPlace(&made);
        Py_XSETREF(n->cache->keys[at].key, made);
        n->cache->keys[at].n = (uint8_t)name.n;
        memcpy(n->cache->keys[at].name, name.p, name.n);
    }
    *key = Py_XNewRef(n->cache->keys[at].key);
    return *key != NULL;
}

static bool
is_secret(struct slice name)
{
    return slice_is(name, "cookie") || slice_is(name, "authorization") ||
           slice_is(name, "proxy-authorization");
}

PyObject *
wsgi_value(struct wsgi_names *n, struct slice name, struct slice value)
{
    if (value.n > VALUE_MAX || is_secret(name))
        return PyUnicode_DecodeLatin1(value.p, (Py_ssize_t)value.n, "strict");
    PyObject **slot = &n->cache->values[slice_hash(1, value) & (VALUES - 1)];
    PyObject *cached = *slot;
    if (LIKELY(cached != NULL && (size_t)PyUnicode_GET_LENGTH(cached) == value.n &&
               memcmp(PyUnicode_1BYTE_DATA(cached), value.p, value.n) == 0))
        return Py_NewRef(cached);
    PyObject *made = PyUnicode_DecodeLatin1(value.p, (Py_ssize_t)value.n, "strict");
    if (made != NULL)
        Py_XSETREF(*slot, Py_NewRef(made));
    return made;
}

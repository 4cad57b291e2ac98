/* scope.c: the connection scope of an HTTP request (ASGI HTTP specification 2.5, "HTTP Connection Scope"), built from the
 * parser's slices. The dictionary is a copy of a template that already has every key, so nothing is resized; the template has the
 * commonest values too (GET, HTTP/1.1, no query, the server's usual address), so that only what differs is set. */
#include "asgi.h"

#include <arpa/inet.h>

/* (host, port) for IP, (path, None) for a unix listener, None where there is no name. */
static PyObject *
address_new(const struct sockaddr_storage *addr, bool is_local)
{
    char text[INET6_ADDRSTRLEN];
    if (addr->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)addr;
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
        return Py_BuildValue("(si)", text, (int)ntohs(in->sin_port));
    }
    if (addr->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)addr;
        inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
        return Py_BuildValue("(si)", text, (int)ntohs(in6->sin6_port));
    }
    if (addr->ss_family == AF_UNIX && is_local) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)addr;
        PY_OWNED PyObject *path = PyUnicode_DecodeFSDefaultAndSize(
            un->sun_path, (Py_ssize_t)strnlen(un->sun_path, sizeof(un->sun_path)));
        return path == NULL ? NULL : Py_BuildValue("(OO)", path, Py_None);
    }
    return Py_NewRef(Py_None); /* the client of a unix socket has no address */
}

/* (client, server), made once a connection and kept in its slot. Nearly all connections share the server's address. */
static PyObject *
addresses_of(struct asgi_names *n, struct h1 *h)
{
    void **slot = h1_conn_data(h);
    if (LIKELY(*slot != NULL))
        return *slot;
    PY_OWNED PyObject *client = address_new(h1_peer(h), false);
    const struct sockaddr_storage *local = h1_local(h);
    if (client == NULL)
        return NULL;
    if (n->server_tuple == NULL || memcmp(local, &n->server_addr, sizeof(*local)) != 0) {
        PyObject *server = address_new(local, true);
        if (server == NULL)
            return NULL;
        Py_XSETREF(n->server_tuple, server);
        n->server_addr = *local;
        if (PyDict_SetItem(n->scope_template, n->s_server, server) < 0)
            return NULL;
    }
    *slot = PyTuple_Pack(2, client, n->server_tuple);
    return *slot; /* borrowed from the connection */
}

static int
hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* root_path + the path with percent escapes and UTF-8 decoded; what is not UTF-8 becomes U+FFFD, an escape that is none stays. */
static PyObject *
path_new(struct asgi_names *n, struct slice path)
{
    size_t root = (size_t)PyBytes_GET_SIZE(n->root_path_bytes);
    if (LIKELY(root == 0 && memchr(path.p, '%', path.n) == NULL))
        return PyUnicode_DecodeUTF8(path.p, (Py_ssize_t)path.n, "replace");
    MEM_OWNED char *out = malloc(root + path.n + 1);
    if (out == NULL)
        return PyErr_NoMemory();
    memcpy(out, PyBytes_AS_STRING(n->root_path_bytes), root);
    size_t k = root;
    for (size_t i = 0; i < path.n; i++) {
        int high, low;
        if (path.p[i] == '%' && i + 2 < path.n && (high = hex_value(path.p[i + 1])) >= 0 &&
            (low = hex_value(path.p[i + 2])) >= 0) {
            out[k++] = (char)(high << 4 | low);
            i += 2;
        } else {
            out[k++] = path.p[i];
        }
    }
    return PyUnicode_DecodeUTF8(out, (Py_ssize_t)k, "replace");
}

static PyObject *
raw_path_new(struct asgi_names *n, struct slice path)
{
    size_t root = (size_t)PyBytes_GET_SIZE(n->root_path_bytes);
    PyObject *raw = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(root + path.n));
    if (raw == NULL)
        return NULL;
    memcpy(PyBytes_AS_STRING(raw), PyBytes_AS_STRING(n->root_path_bytes), root);
    memcpy(PyBytes_AS_STRING(raw) + root, path.p, path.n);
    return raw;
}

static PyObject *
headers_new(struct asgi_names *n, const struct http_request *r)
{
    PyObject *list = PyList_New((Py_ssize_t)r->headers_n);
    if (list == NULL)
        return NULL;
    for (unsigned i = 0; i < r->headers_n; i++) {
        PyObject *pair = names_header(n, r->headers[i].name, r->headers[i].value);
        if (pair == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, pair);
    }
    return list;
}

/* Steals value, also on failure. */
static int
set(PyObject *scope, PyObject *key, PyObject *value)
{
    if (value == NULL)
        return -1;
    int err = PyDict_SetItem(scope, key, value);
    Py_DECREF(value);
    return err;
}

PyObject *
scope_new(struct asgi *a, struct cycle *cycle)
{
    struct asgi_names *n = a->names;
    struct h1 *h = cycle->h;
    const struct http_request *r = h1_request(h);
    PyObject *addresses = addresses_of(n, h); /* first: it may change the template */
    PY_OWNED PyObject *scope = addresses == NULL ? NULL : PyDict_Copy(n->scope_template);
    if (scope == NULL || PyDict_SetItem(scope, n->s_client, PyTuple_GET_ITEM(addresses, 0)) < 0 ||
        set(scope, n->s_asgi, PyDict_Copy(n->asgi_template)) < 0 ||
        set(scope, n->s_extensions, PyDict_New()) < 0 ||
        set(scope, n->s_path, path_new(n, r->path)) < 0 ||
        set(scope, n->s_raw_path, raw_path_new(n, r->path)) < 0 ||
        set(scope, n->s_headers, headers_new(n, r)) < 0 ||
        set(scope, n->s_state, PyDict_Copy(a->state)) < 0)
        return NULL;
    PyObject *server = PyTuple_GET_ITEM(addresses, 1);
    if (UNLIKELY(server != n->server_tuple) && PyDict_SetItem(scope, n->s_server, server) < 0)
        return NULL;
    if (UNLIKELY(r->version_minor == 0) && PyDict_SetItem(scope, n->s_http_version, n->version_10) < 0)
        return NULL;
    if (!slice_is(r->method, "GET") && set(scope, n->s_method, names_method(n, r->method)) < 0)
        return NULL;
    if (r->query.n > 0 &&
        set(scope, n->s_query_string, PyBytes_FromStringAndSize(r->query.p, (Py_ssize_t)r->query.n)) < 0)
        return NULL;
    return py_take(&scope);
}

/* environ.c: the environ dictionary of a request (PEP 3333, "environ Variables"): a copy of a template that has every key of the server's
 * own, and the request's headers.
 *
 * Text is "bytes in str": each byte of the wire is a character up to U+00FF.
 *
 * Runs on:  the request's thread, GIL held. */
#include "wsgi/wsgi.h"

#include <stdlib.h>

static PyObject *
latin1(struct slice s)
{
    return PyUnicode_DecodeLatin1(s.p, (Py_ssize_t)s.n, "strict");
}

/* With its percent escapes decoded. */
static PyObject *
path_new(struct slice path)
{
    MEM_OWNED char *out = malloc(path.n + 1);
    if (out == NULL)
        return PyErr_NoMemory();
    return latin1((struct slice){ out, http_unescape(out, path) });
}

/* RAW_URI and REQUEST_URI: the target as it was sent. PATH_INFO, QUERY_STRING. */
static int
set_target(struct wsgi_names *n, PyObject *environ, const struct http_request *r)
{
    PY_OWNED PyObject *target = latin1(r->target);
    if (target == NULL || PyDict_SetItem(environ, n->s_RAW_URI, target) < 0 ||
        PyDict_SetItem(environ, n->s_REQUEST_URI, target) < 0)
        return -1;
    if (r->query.n > 0 && py_dict_give(environ, n->s_QUERY_STRING, latin1(r->query)) < 0)
        return -1;
    if (UNLIKELY(slice_is(r->path, "*"))) /* OPTIONS *: no path; the template has "" */
        return 0;
    if (UNLIKELY(memchr(r->path.p, '%', r->path.n) != NULL))
        return py_dict_give(environ, n->s_PATH_INFO, path_new(r->path));
    if (LIKELY(r->path.n == r->target.n))
        return PyDict_SetItem(environ, n->s_PATH_INFO, target);
    return py_dict_give(environ, n->s_PATH_INFO, latin1(r->path));
}

static bool
text_is(PyObject *text, struct slice s)
{
    return text != NULL && (size_t)PyUnicode_GET_LENGTH(text) == s.n &&
           memcmp(PyUnicode_1BYTE_DATA(text), s.p, s.n) == 0;
}

static PyObject *
port_new(unsigned port)
{
    char digits[8];
    size_t i = sizeof(digits);
    do
        digits[--i] = (char)('0' + port % 10);
    while ((port /= 10) > 0);
    return latin1((struct slice){ digits + i, sizeof(digits) - i });
}

/* What Host says, for unix sockets, which have no name of their own. */
static struct slice
host_of(const struct http_request *r, unsigned *port)
{
    struct slice host = { "", 0 };
    for (unsigned i = 0; i < r->headers_n; i++) {
        if (slice_is(r->headers[i].name, "host"))
            host = r->headers[i].value;
    }
    const char *colon = host.n > 0 ? memrchr(host.p, ':', host.n) : NULL;
    const char *bracket = host.n > 0 ? memrchr(host.p, ']', host.n) : NULL;
    if (colon != NULL && (bracket == NULL || colon > bracket)) {
        unsigned value = 0;
        for (const char *p = colon + 1; p < host.p + host.n && value < 65536; p++)
            value = *p >= '0' && *p <= '9' ? value * 10 + (unsigned)(*p - '0') : 65536;
        if (value > 0 && value < 65536)
            *port = value;
        host.n = (size_t)(colon - host.p);
    }
    return host.n > 0 ? host : SLICE("localhost");
}

static int
set_ends(struct wsgi_names *n, PyObject *environ, const struct exchange *ex)
{
    const struct exchange_ends *ends = &ex->ends;
    struct slice server = ends->server;
    unsigned port = ends->server_port;
    if (UNLIKELY(ends->is_unix || server.n == 0)) {
        port = ex->req.is_https ? 443 : 80;
        server = host_of(&ex->req, &port);
    }
    /* Nearly all requests share the server's address, and behind a proxy the client's too. */
    if (UNLIKELY(!text_is(n->server_name, server)))
        Py_XSETREF(n->server_name, latin1(server));
    if (UNLIKELY(n->server_port == NULL || n->server_port_number != port)) {
        Py_XSETREF(n->server_port, port_new(port));
        n->server_port_number = port;
    }
    if (UNLIKELY(!text_is(n->client, ends->client)))
        Py_XSETREF(n->client, latin1(ends->client));
    if (n->server_name == NULL || n->server_port == NULL || n->client == NULL ||
        PyDict_SetItem(environ, n->s_SERVER_NAME, n->server_name) < 0 ||
        PyDict_SetItem(environ, n->s_SERVER_PORT, n->server_port) < 0 ||
        PyDict_SetItem(environ, n->s_REMOTE_ADDR, n->client) < 0)
        return -1;
    if (ends->client_port == 0)
        return PyDict_DelItem(environ, n->s_REMOTE_PORT);
    return py_dict_give(environ, n->s_REMOTE_PORT, port_new(ends->client_port));
}

/* A header that came before: one value, as a list (RFC 9110 section 5.3); cookies have a separator of their own (RFC 9113 section
 * 8.2.3). */
static int
join(PyObject *environ, PyObject *key, PyObject *first, struct slice name, PyObject *value)
{
    PyObject *joined =
        PyUnicode_FromFormat(slice_is(name, "cookie") ? "%U; %U" : "%U,%U", first, value);
    return py_dict_give(environ, key, joined);
}

static int
set_headers(struct wsgi_names *n, PyObject *environ, const struct http_request *r)
{
    for (unsigned i = 0; i < r->headers_n; i++) {
        const struct http_header *h = &r->headers[i];
        PY_OWNED PyObject *key = NULL;
        int passes = wsgi_key(n, h->name, &key);
        if (UNLIKELY(passes <= 0)) {
            if (passes < 0)
                return -1;
            continue;
        }
        PY_OWNED PyObject *value = wsgi_value(n, h->name, h->value);
        if (value == NULL)
            return -1;
        Py_ssize_t size = PyDict_GET_SIZE(environ);
        PyObject *there = PyDict_SetDefault(environ, key, value); /* borrowed */
        if (there == NULL)
            return -1;
        if (UNLIKELY(PyDict_GET_SIZE(environ) == size) &&
            join(environ, key, there, h->name, value) < 0)
            return -1;
    }
    return 0;
}

PyObject *
environ_new(struct wsgi *w, const struct exchange *ex, PyObject *input)
{
    struct wsgi_names *n = w->names;
    const struct http_request *r = &ex->req;
    PY_OWNED PyObject *environ = PyDict_Copy(n->template);
    if (environ == NULL || PyDict_SetItem(environ, n->input_key, input) < 0 ||
        set_target(n, environ, r) < 0 || set_ends(n, environ, ex) < 0 ||
        set_headers(n, environ, r) < 0)
        return NULL;
    if (!slice_is(r->method, "GET") &&
        py_dict_give(environ, n->s_REQUEST_METHOD, wsgi_method(n, r->method)) < 0)
        return NULL;
    if (UNLIKELY(r->id.n > 0) && py_dict_give(environ, n->request_id_key, latin1(r->id)) < 0)
        return NULL;
    if (UNLIKELY(r->is_https) && PyDict_SetItem(environ, n->scheme_key, n->https) < 0)
        return NULL;
    if (UNLIKELY(r->forwarded.root_path.p != NULL) &&
        py_dict_give(environ, n->s_SCRIPT_NAME, path_new(r->forwarded.root_path)) < 0)
        return NULL;
    if (UNLIKELY(r->version_minor == 0) &&
        PyDict_SetItem(environ, n->s_SERVER_PROTOCOL, n->version_10) < 0)
        return NULL;
    return py_take(&environ);
}

/* scope.c: the connection scope of an HTTP request (ASGI HTTP specification 2.5, "HTTP Connection Scope"), built from the
 * parser's slices. The dictionary is a copy of a template that already has every key, so nothing is resized; the template has the
 * commonest values too (GET, HTTP/1.1, no query, the server's usual address), so that only what differs is set. */
#include "asgi.h"

/* (host, port) for IP, (path, None) for a unix listener, None where there is no name. */
static PyObject *
address_new(struct slice text, unsigned port, bool is_path)
{
    if (text.n == 0)
        return Py_NewRef(Py_None);
    if (is_path) {
        PY_OWNED PyObject *path = PyUnicode_DecodeFSDefaultAndSize(text.p, (Py_ssize_t)text.n);
        return path == NULL ? NULL : PyTuple_Pack(2, path, Py_None);
    }
    return Py_BuildValue("(s#I)", text.p, (Py_ssize_t)text.n, port);
}

/* The client's address as a str, new: that of the connection before, where it is the same one. Behind a proxy nearly all are, and thousands of
 * WebSockets then have one between them. */
static PyObject *
client_host_new(struct asgi_names *n, struct slice text)
{
    PyObject *last = n->client_host;
    if (last != NULL && (size_t)PyUnicode_GET_LENGTH(last) == text.n &&
        memcmp(PyUnicode_1BYTE_DATA(last), text.p, text.n) == 0)
        return Py_NewRef(last);
    PyObject *host = PyUnicode_DecodeUTF8(text.p, (Py_ssize_t)text.n, "strict");
    if (host != NULL && PyUnicode_IS_ASCII(host))
        Py_XSETREF(n->client_host, Py_NewRef(host));
    return host;
}

static PyObject *
client_new(struct asgi_names *n, const struct exchange_ends *ends)
{
    if (ends->client.n == 0)
        return Py_NewRef(Py_None);
    PY_OWNED PyObject *host = client_host_new(n, ends->client);
    return host == NULL ? NULL : Py_BuildValue("(OI)", host, ends->client_port);
}

static bool
is_usual_server(const struct asgi_names *n, const struct exchange_ends *ends)
{
    return n->server_tuple != NULL && n->server_port == ends->server_port &&
           n->server_text_n == ends->server.n &&
           memcmp(n->server_text, ends->server.p, ends->server.n) == 0;
}

/* None for what is not known: new. */
static PyObject *
text_or_none(const char *text)
{
    return text == NULL ? Py_NewRef(Py_None)
                        : PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

static PyObject *
number_or_none(unsigned number)
{
    return number == 0 ? Py_NewRef(Py_None) : PyLong_FromUnsignedLong(number);
}

/* The extension "tls" (ASGI TLS Extension 0.2): new. A client's certificate that is not right ends a handshake with us; an error is
 * what a proxy tells. */
static PyObject *
tls_new(struct asgi_names *n, const struct tls_about *about)
{
    if (LIKELY(about == NULL))
        return Py_NewRef(Py_None);
    PY_OWNED PyObject *chain = PyList_New((Py_ssize_t)about->client_chain_n);
    PY_OWNED PyObject *tls = PyDict_New();
    if (chain == NULL || tls == NULL)
        return NULL;
    for (size_t i = 0; i < about->client_chain_n; i++) {
        PyObject *pem = PyUnicode_FromString(about->client_chain[i]);
        if (pem == NULL)
            return NULL;
        PyList_SET_ITEM(chain, (Py_ssize_t)i, pem);
    }
    if (py_dict_give(tls, n->s_client_cert_name, text_or_none(about->client_name)) < 0 ||
        py_dict_give(tls, n->s_client_cert_error, text_or_none(about->client_error)) < 0 ||
        py_dict_give(tls, n->s_server_cert, text_or_none(about->server_cert)) < 0 ||
        py_dict_give(tls, n->s_tls_version, number_or_none(about->version)) < 0 ||
        py_dict_give(tls, n->s_cipher_suite, number_or_none(about->cipher_suite)) < 0 ||
        PyDict_SetItem(tls, n->s_client_cert_chain, chain) < 0)
        return NULL;
    return py_take(&tls);
}

PyObject *
scope_ends(struct asgi_names *n, const struct exchange_ends *ends)
{
    PY_OWNED PyObject *client = client_new(n, ends);
    PY_OWNED PyObject *tls = client == NULL ? NULL : tls_new(n, ends->tls);
    if (tls == NULL)
        return NULL;
    /* Nearly all connections share the server's address. */
    if (UNLIKELY(!is_usual_server(n, ends))) {
        PY_OWNED PyObject *server = address_new(ends->server, ends->server_port, ends->is_unix);
        if (server == NULL)
            return NULL;
        if (ends->server.n > sizeof(n->server_text))
            return PyTuple_Pack(3, client, server, tls);
        memcpy(n->server_text, ends->server.p, ends->server.n);
        n->server_text_n = ends->server.n;
        n->server_port = ends->server_port;
        n->has_servers = n->server_tuple != NULL;
        Py_XSETREF(n->server_tuple, py_take(&server));
        if (PyDict_SetItem(n->scope_template, n->s_server, n->server_tuple) < 0 ||
            PyDict_SetItem(n->websocket_template, n->s_server, n->server_tuple) < 0)
            return NULL;
    }
    return PyTuple_Pack(3, client, n->server_tuple, tls);
}

PyObject *
scope_addresses(struct asgi_names *n, struct h1 *h)
{
    struct exchange_conn *conn = exchange_conn(h);
    bool is_own = !h1_request(h)->is_forwarded;
    if (LIKELY(conn != NULL && is_own && conn->kept != NULL))
        return Py_NewRef(conn->kept);
    char client[INET6_ADDRSTRLEN];
    struct exchange_ends ends;
    if (UNLIKELY(conn == NULL || !exchange_ends(h, &ends, client)))
        return PyErr_NoMemory();
    PyObject *addresses = scope_ends(n, &ends);
    if (is_own)
        conn->kept = Py_XNewRef(addresses);
    return addresses;
}

void
scope_addresses_drop(struct h1 *h)
{
    void **slot = h1_conn_data(h);
    struct exchange_conn *conn = *slot;
    *slot = NULL;
    if (conn == NULL)
        return;
    Py_XDECREF(conn->kept);
    exchange_conn_free(conn);
}

/* What a proxy has cut off, as it is sent. */
static struct slice
root_of(const struct asgi_names *n, const struct http_request *r)
{
    if (UNLIKELY(r->forwarded.root_path.p != NULL))
        return r->forwarded.root_path;
    return (struct slice){ PyBytes_AS_STRING(n->root_path_bytes),
                           (size_t)PyBytes_GET_SIZE(n->root_path_bytes) };
}

/* root_path + path with percent escapes and UTF-8 decoded; what is not UTF-8 becomes U+FFFD, an escape that is none stays. */
static PyObject *
path_new(struct asgi_names *n, const struct http_request *r, struct slice path)
{
    struct slice root = root_of(n, r);
    if (LIKELY(root.n == 0 && memchr(path.p, '%', path.n) == NULL))
        return PyUnicode_DecodeUTF8(path.p, (Py_ssize_t)path.n, "replace");
    MEM_OWNED char *out = malloc(root.n + path.n + 1);
    if (out == NULL)
        return PyErr_NoMemory();
    size_t k = root.n;
    if (UNLIKELY(r->forwarded.root_path.p != NULL))
        k = http_unescape(out, root);
    else /* the configuration's has no escapes */
        memcpy(out, root.p, root.n);
    k += http_unescape(out + k, path);
    return PyUnicode_DecodeUTF8(out, (Py_ssize_t)k, "replace");
}

static PyObject *
raw_path_new(struct asgi_names *n, const struct http_request *r)
{
    struct slice root = root_of(n, r);
    PyObject *raw = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(root.n + r->path.n));
    if (raw == NULL)
        return NULL;
    memcpy(PyBytes_AS_STRING(raw), root.p, root.n);
    memcpy(PyBytes_AS_STRING(raw) + root.n, r->path.p, r->path.n);
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

/* What the client offers, in its order. */
static PyObject *
subprotocols_new(const struct http_request *r)
{
    PY_OWNED PyObject *list = PyList_New(0);
    for (unsigned i = 0; list != NULL && i < r->headers_n; i++) {
        if (!slice_is(r->headers[i].name, "sec-websocket-protocol"))
            continue;
        for (struct slice rest = r->headers[i].value; rest.n > 0;) {
            const char *comma = memchr(rest.p, ',', rest.n);
            size_t n = comma != NULL ? (size_t)(comma - rest.p) : rest.n;
            struct slice one = slice_trim((struct slice){ rest.p, n });
            n += comma != NULL;
            rest = (struct slice){ rest.p + n, rest.n - n };
            if (one.n == 0)
                continue;
            PY_OWNED PyObject *text = PyUnicode_DecodeLatin1(one.p, (Py_ssize_t)one.n, NULL);
            if (text == NULL || PyList_Append(list, text) < 0)
                return NULL;
        }
    }
    return py_take(&list);
}

static PyObject *
extensions_new(struct asgi_names *n, const struct http_request *r, PyObject *tls)
{
    PY_OWNED PyObject *extensions =
        PyDict_Copy(r->is_websocket ? n->ws_extensions_template : n->extensions_template);
    if (extensions == NULL ||
        (UNLIKELY(r->version_minor == 0 && !r->is_websocket) &&
         PyDict_DelItem(extensions, n->response_early_hint) < 0) ||
        (UNLIKELY(r->takes_trailers) && !r->is_websocket &&
         py_dict_give(extensions, n->response_trailers, PyDict_New()) < 0) ||
        (tls != Py_None && py_dict_give(extensions, n->s_tls, PyDict_Copy(tls)) < 0))
        return NULL;
    return py_take(&extensions);
}

/* There may be thousands of WebSockets, each with its scope for as long as it lives: they share this one, 200 bytes. */
static PyObject *
asgi_new(struct asgi_names *n, const struct http_request *r)
{
    return r->is_websocket ? Py_NewRef(n->asgi_template) : PyDict_Copy(n->asgi_template);
}

/* The request's own copy of what lifespan has left. */
static PyObject *
state_new(struct asgi *a, const struct http_request *r)
{
    PY_OWNED PyObject *state = PyDict_Copy(a->state);
    if (state != NULL && r->id.n > 0 &&
        py_dict_give(state, a->names->s_request_id,
                     PyUnicode_DecodeLatin1(r->id.p, (Py_ssize_t)r->id.n, NULL)) < 0)
        return NULL;
    return py_take(&state);
}

PyObject *
scope_new(struct asgi *a, const struct http_request *r, PyObject *addresses)
{
    struct asgi_names *n = a->names;
    PyObject *tls = PyTuple_GET_ITEM(addresses, 2);
    PY_OWNED PyObject *scope =
        PyDict_Copy(r->is_websocket ? n->websocket_template : n->scope_template);
    if (scope == NULL || PyDict_SetItem(scope, n->s_client, PyTuple_GET_ITEM(addresses, 0)) < 0 ||
        py_dict_give(scope, n->s_asgi, asgi_new(n, r)) < 0 ||
        py_dict_give(scope, n->s_extensions, extensions_new(n, r, tls)) < 0 ||
        py_dict_give(scope, n->s_path, path_new(n, r, r->path)) < 0 ||
        py_dict_give(scope, n->s_raw_path, raw_path_new(n, r)) < 0 ||
        py_dict_give(scope, n->s_headers, headers_new(n, r)) < 0 ||
        py_dict_give(scope, n->s_state, state_new(a, r)) < 0)
        return NULL;
    PyObject *server = PyTuple_GET_ITEM(addresses, 1);
    if (UNLIKELY(n->has_servers || server != n->server_tuple) &&
        PyDict_SetItem(scope, n->s_server, server) < 0)
        return NULL;
    if (UNLIKELY(r->is_https) &&
        PyDict_SetItem(scope, n->s_scheme, r->is_websocket ? n->s_wss : n->s_https) < 0)
        return NULL;
    if (UNLIKELY(r->forwarded.root_path.p != NULL) &&
        py_dict_give(scope, n->s_root_path, path_new(n, r, SLICE(""))) < 0)
        return NULL;
    if (UNLIKELY(r->version_minor == 0) &&
        PyDict_SetItem(scope, n->s_http_version, n->version_10) < 0)
        return NULL;
    if (r->is_websocket && py_dict_give(scope, n->s_subprotocols, subprotocols_new(r)) < 0)
        return NULL;
    if (!slice_is(r->method, "GET") &&
        py_dict_give(scope, n->s_method, names_method(n, r->method)) < 0)
        return NULL;
    if (r->query.n > 0 &&
        py_dict_give(scope, n->s_query_string,
                     PyBytes_FromStringAndSize(r->query.p, (Py_ssize_t)r->query.n)) < 0)
        return NULL;
    return py_take(&scope);
}

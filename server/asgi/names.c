/* names.c: the constants of the protocol, made once per worker, and the cache of header pairs.
 *
 * Clients send the same few headers again and again. A pair (name, value) is an immutable tuple of two bytes objects, so
 * one that was seen before is handed out again instead of being built: a third of the cost of a scope. The cache is a
 * direct-mapped table of fixed size; long values and those that are secrets (Authorization, Cookie) never enter it. */
#include "asgi.h"

enum {
    HEADER_CACHE_SLOTS = 1024, /* a power of two */
    HEADER_CACHE_VALUE_MAX = 160,
};

struct header_cache {
    PyObject *slots[HEADER_CACHE_SLOTS]; /* tuples (name, value), or NULL */
};

/* In the order of struct asgi_names.methods. */
static const char *const METHODS[] = { "GET",   "POST",   "HEAD",    "PUT",
                                       "PATCH", "DELETE", "OPTIONS", "TRACE" };

static PyObject *
module_attr(PyObject *module, const char *name)
{
    return PyObject_GetAttrString(module, name);
}

static PyObject *
as_coroutine_new(void)
{
    PY_OWNED PyObject *app = PyImport_ImportModule("ringcorn.app");
    return app != NULL ? module_attr(app, "as_coroutine") : NULL;
}

static int
make_templates(struct asgi_names *n, const struct conf *conf)
{
    PY_OWNED PyObject *root_path =
        PyUnicode_DecodeFSDefault(conf->root_path ? conf->root_path : "");
    PY_OWNED PyObject *spec = PyUnicode_FromString("2.5");
    PY_OWNED PyObject *version = PyUnicode_FromString("3.0");
    if (root_path == NULL || spec == NULL || version == NULL)
        return -1;
    n->root_path_bytes = PyUnicode_AsUTF8String(root_path);
    n->asgi_template = PyDict_New();
    n->scope_template = PyDict_New();
    n->request_template = PyDict_New();
    n->disconnect_template = PyDict_New();
    if (n->root_path_bytes == NULL || n->asgi_template == NULL || n->scope_template == NULL ||
        n->request_template == NULL || n->disconnect_template == NULL)
        return -1;
    if (PyDict_SetItem(n->asgi_template, n->s_version, version) < 0 ||
        PyDict_SetItem(n->asgi_template, n->s_spec_version, spec) < 0)
        return -1;
    /* Every key that scope_new() sets is here, so that a copy never has to grow. */
    PyObject *const keys[] = { n->s_type,       n->s_asgi,     n->s_http_version, n->s_server,
                               n->s_client,     n->s_scheme,   n->s_method,       n->s_root_path,
                               n->s_path,       n->s_raw_path, n->s_query_string, n->s_headers,
                               n->s_extensions, n->s_state };
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (PyDict_SetItem(n->scope_template, keys[i], Py_None) < 0)
            return -1;
    }
    if (PyDict_SetItem(n->scope_template, n->s_type, n->s_http) < 0 ||
        PyDict_SetItem(n->scope_template, n->s_scheme, n->s_http) < 0 ||
        PyDict_SetItem(n->scope_template, n->s_root_path, root_path) < 0 ||
        PyDict_SetItem(n->scope_template, n->s_http_version, n->version_11) < 0 ||
        PyDict_SetItem(n->scope_template, n->s_method, n->methods[0]) < 0 ||
        PyDict_SetItem(n->scope_template, n->s_query_string, n->empty_bytes) < 0)
        return -1;
    n->websocket_template = PyDict_Copy(n->scope_template);
    if (n->websocket_template == NULL || PyDict_DelItem(n->websocket_template, n->s_method) < 0 ||
        PyDict_SetItem(n->websocket_template, n->s_type, n->s_websocket) < 0 ||
        PyDict_SetItem(n->websocket_template, n->s_scheme, n->s_ws) < 0 ||
        PyDict_SetItem(n->websocket_template, n->s_subprotocols, Py_None) < 0)
        return -1;
    if (PyDict_SetItem(n->request_template, n->s_type, n->http_request) < 0 ||
        PyDict_SetItem(n->request_template, n->s_body, n->empty_bytes) < 0 ||
        PyDict_SetItem(n->request_template, n->s_more_body, Py_False) < 0)
        return -1;
    PyObject *const extensions[] = { n->response_pathsend, n->response_zerocopysend,
                                     n->response_early_hint,
                                     conf->log_level == LOG_DEBUG ? n->response_debug : NULL };
    if ((n->extensions_template = PyDict_New()) == NULL)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(extensions) && extensions[i] != NULL; i++)
        if (py_dict_give(n->extensions_template, extensions[i], PyDict_New()) < 0)
            return -1;
    if ((n->ws_extensions_template = PyDict_New()) == NULL ||
        py_dict_give(n->ws_extensions_template, n->ws_response, PyDict_New()) < 0)
        return -1;
    return PyDict_SetItem(n->disconnect_template, n->s_type, n->http_disconnect);
}

static int
names_fill(struct asgi_names *n, const struct conf *conf)
{
    n->module = PyImport_ImportModule("_ringcorn");
    if (n->module == NULL)
        return -1;
    n->cycle_type = (PyTypeObject *)module_attr(n->module, "_Cycle");
    n->receive_type = (PyTypeObject *)module_attr(n->module, "_Receive");
    n->send_type = (PyTypeObject *)module_attr(n->module, "_Send");
    n->wait_type = (PyTypeObject *)module_attr(n->module, "_Wait");
    n->direct_type = (PyTypeObject *)module_attr(n->module, "Exchange");
    n->disconnected = module_attr(n->module, "ClientDisconnected");
    PY_OWNED PyObject *asyncio = PyImport_ImportModule("asyncio");
    if (n->cycle_type == NULL || n->receive_type == NULL || n->send_type == NULL ||
        n->wait_type == NULL || n->direct_type == NULL || n->disconnected == NULL ||
        asyncio == NULL)
        return -1;
    PY_OWNED PyObject *log = PyImport_ImportModule("ringcorn.log");
    PY_OWNED PyObject *overload = PyImport_ImportModule("ringcorn.overload");
    if (log == NULL || (n->report = module_attr(log, "request_failed")) == NULL ||
        (n->request_id = module_attr(log, "request_id")) == NULL || overload == NULL ||
        (n->refused = module_attr(overload, "refused")) == NULL ||
        (n->overdue = module_attr(overload, "overdue")) == NULL ||
        (n->as_coroutine = as_coroutine_new()) == NULL ||
        (n->loop_kwname = Py_BuildValue("(s)", "loop")) == NULL ||
        (n->context_kwname = Py_BuildValue("(s)", "context")) == NULL)
        return -1;
    PY_OWNED PyObject *guard =
        conf->guard_mode == CONF_GUARD_OFF ? NULL : PyImport_ImportModule("ringcorn.guard");
    if (conf->guard_mode != CONF_GUARD_OFF &&
        (guard == NULL || (n->guard_request = module_attr(guard, "request")) == NULL ||
         (n->guard_gone = module_attr(guard, "gone")) == NULL ||
         (n->guard_cancel = module_attr(guard, "cancel")) == NULL ||
         (n->guard_ended = module_attr(guard, "ended")) == NULL))
        return -1;
    n->future_type = module_attr(asyncio, "Future");
    n->empty_bytes = PyBytes_FromStringAndSize(NULL, 0);
    n->name_ws_key = PyBytes_FromString("sec-websocket-key");
    n->headers = calloc(1, sizeof(*n->headers));
    if (n->future_type == NULL || n->empty_bytes == NULL || n->name_ws_key == NULL)
        return -1;
    if (n->headers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
#define X(name)                                                                                    \
    if ((n->s_##name = PyUnicode_InternFromString(#name)) == NULL)                         \
        return -1;
    ASGI_STRINGS(X)
#undef X
    const struct {
        PyObject **field;
        const char *text;
    } strings[] = {
        { &n->http_request, "http.request" },
        { &n->http_disconnect, "http.disconnect" },
        { &n->response_start, "http.response.start" },
        { &n->response_body, "http.response.body" },
        { &n->ws_connect, "websocket.connect" },
        { &n->ws_receive, "websocket.receive" },
        { &n->ws_disconnect, "websocket.disconnect" },
        { &n->ws_accept, "websocket.accept" },
        { &n->ws_send, "websocket.send" },
        { &n->ws_close, "websocket.close" },
        { &n->ws_response, "websocket.http.response" },
        { &n->ws_response_start, "websocket.http.response.start" },
        { &n->ws_response_body, "websocket.http.response.body" },
        { &n->response_pathsend, "http.response.pathsend" },
        { &n->response_zerocopysend, "http.response.zerocopysend" },
        { &n->response_early_hint, "http.response.early_hint" },
        { &n->response_trailers, "http.response.trailers" },
        { &n->response_debug, "http.response.debug" },
        { &n->tell, "tell" },
        { &n->seek, "seek" },
        { &n->version_10, "1.0" },
        { &n->version_11, "1.1" },
        { &n->exception, "exception" },
        { &n->add_done_callback, "add_done_callback" },
        { &n->cancel, "cancel" },
        { &n->cancelling, "cancelling" },
        { &n->set_result, "set_result" },
        { &n->result, "result" },
        { &n->future_blocking, "_asyncio_future_blocking" },
        { &n->done, "done" },
    };
    for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
        if ((*strings[i].field = PyUnicode_InternFromString(strings[i].text)) == NULL)
            return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(METHODS); i++) {
        if ((n->methods[i] = PyUnicode_InternFromString(METHODS[i])) == NULL)
            return -1;
    }
    return make_templates(n, conf);
}

struct asgi_names *
names_new(const struct conf *conf)
{
    struct asgi_names *n = calloc(1, sizeof(*n));
    if (n == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (names_fill(n, conf) < 0) {
        names_free(n);
        return NULL;
    }
    return n;
}

void
names_free(struct asgi_names *n)
{
    for (size_t i = 0; n->headers != NULL && i < HEADER_CACHE_SLOTS; i++)
        Py_CLEAR(n->headers->slots[i]);
    free(n->headers);
    for (size_t i = 0; i < ARRAY_LEN(METHODS); i++)
        Py_CLEAR(n->methods[i]);
#define X(name) Py_CLEAR(n->s_##name);
    ASGI_STRINGS(X)
#undef X
    PyObject **const rest[] = {
        &n->module,
        &n->disconnected,
        &n->future_type,
        &n->wait_done,
        &n->empty_bytes,
        &n->root_path_bytes,
        &n->scope_template,
        &n->asgi_template,
        &n->request_template,
        &n->disconnect_template,
        &n->http_request,
        &n->http_disconnect,
        &n->response_start,
        &n->response_body,
        &n->version_10,
        &n->version_11,
        &n->exception,
        &n->add_done_callback,
        &n->cancel,
        &n->set_result,
        &n->cancelling,
        &n->request_id,
        &n->done,
        &n->server_tuple,
        &n->client_host,
        &n->report,
        &n->loop_kwname,
        &n->refused,
        &n->overdue,
        &n->guard_request,
        &n->guard_gone,
        &n->guard_cancel,
        &n->guard_ended,
        &n->as_coroutine,
        &n->websocket_template,
        &n->ws_connect,
        &n->ws_receive,
        &n->ws_disconnect,
        &n->ws_accept,
        &n->ws_send,
        &n->ws_close,
        &n->ws_response,
        &n->ws_response_start,
        &n->ws_response_body,
        &n->context_kwname,
        &n->result,
        &n->future_blocking,
        &n->name_ws_key,
        &n->response_pathsend,
        &n->response_zerocopysend,
        &n->response_early_hint,
        &n->response_trailers,
        &n->response_debug,
        &n->extensions_template,
        &n->ws_extensions_template,
        &n->tell,
        &n->seek,
    };
    for (size_t i = 0; i < ARRAY_LEN(rest); i++)
        Py_CLEAR(*rest[i]);
    Py_CLEAR(n->cycle_type);
    Py_CLEAR(n->receive_type);
    Py_CLEAR(n->send_type);
    Py_CLEAR(n->wait_type);
    Py_CLEAR(n->direct_type);
    free(n);
}

PyObject *
names_method(struct asgi_names *n, struct slice method)
{
    for (size_t i = 0; i < ARRAY_LEN(METHODS); i++) {
        if (slice_is(method, METHODS[i]))
            return Py_NewRef(n->methods[i]);
    }
    return PyUnicode_DecodeASCII(method.p, (Py_ssize_t)method.n, "strict");
}

static bool
is_secret(struct slice name)
{
    return slice_is(name, "cookie") || slice_is(name, "authorization") ||
           slice_is(name, "proxy-authorization");
}

static bool
bytes_are(PyObject *bytes, struct slice s)
{
    return (size_t)PyBytes_GET_SIZE(bytes) == s.n &&
           memcmp(PyBytes_AS_STRING(bytes), s.p, s.n) == 0;
}

static PyObject *
name_new(struct slice name)
{
    return PyBytes_FromStringAndSize(name.p, (Py_ssize_t)name.n);
}

/* name: new, stolen in any case; NULL where it could not be made. */
static PyObject *
pair_new(PyObject *name, struct slice value)
{
    PY_OWNED PyObject *n = name;
    PY_OWNED PyObject *v = PyBytes_FromStringAndSize(value.p, (Py_ssize_t)value.n);
    PyObject *pair = n == NULL || v == NULL ? NULL : PyTuple_New(2);
    if (pair == NULL)
        return NULL;
    PyTuple_SET_ITEM(pair, 0, py_take(&n));
    PyTuple_SET_ITEM(pair, 1, py_take(&v));
    return pair;
}

PyObject *
names_header(struct asgi_names *n, struct slice name, struct slice value)
{
    if (slice_is(name, "sec-websocket-key")) /* never seen twice */
        return pair_new(Py_NewRef(n->name_ws_key), value);
    if (value.n > HEADER_CACHE_VALUE_MAX || is_secret(name))
        return pair_new(name_new(name), value);
    uint64_t h = slice_hash(slice_hash(0, name), value);
    PyObject **slot = &n->headers->slots[h & (HEADER_CACHE_SLOTS - 1)];
    PyObject *cached = *slot;
    if (LIKELY(cached != NULL && bytes_are(PyTuple_GET_ITEM(cached, 1), value) &&
               bytes_are(PyTuple_GET_ITEM(cached, 0), name)))
        return Py_NewRef(cached);
    PyObject *pair = pair_new(name_new(name), value);
    if (pair != NULL)
        Py_XSETREF(*slot, Py_NewRef(pair));
    return pair;
}

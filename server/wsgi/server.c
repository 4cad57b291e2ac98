/* server.c: one WSGI application behind one loop: how http/ hands its requests to it.
 *
 * Runs on:  the loop's thread; the callbacks of struct http_app without Python. */
#include "wsgi/wsgi.h"

#include <stdlib.h>

static struct wsgi *
wsgi_of(struct http_app *http)
{
    return http->self;
}

static void
on_begin(struct http_app *http, struct h1 *h)
{
    exchange_begin(&wsgi_of(http)->exchanges, h, call_serve);
}

static void
on_event(struct http_app *http, struct h1 *h, unsigned events)
{
    (void)http;
    struct exchange *ex = exchange_of(*h1_data(h));
    if (ex != NULL)
        exchange_event(ex, events);
}

static void
on_release(struct http_app *http, void *owner)
{
    exchange_release(&wsgi_of(http)->exchanges, owner);
}

static void
on_conn_freed(struct http_app *http, void *conn_data)
{
    (void)http;
    exchange_conn_free(conn_data);
}

void
wsgi_init(struct wsgi *w, struct http_app *http)
{
    *w = (struct wsgi){ .app = NULL };
    exchanges_init(&w->exchanges, http);
}

int
wsgi_open(struct wsgi *w, PyObject *loop, PyObject *pool)
{
    if ((w->names = wsgi_names_new(w->exchanges.http)) == NULL)
        return -1;
    return exchanges_open(&w->exchanges, loop, pool);
}

int
wsgi_serve(struct wsgi *w, PyObject *loop, PyObject *app, PyObject *context, PyObject *presence,
           PyObject *pool)
{
    struct http_app *http = w->exchanges.http;
    if (!PyCallable_Check(app)) {
        PyErr_Format(PyExc_TypeError, "the application must be callable, not %.100s",
                     Py_TYPE(app)->tp_name);
        return -1;
    }
    if (!PyContext_CheckExact(context)) {
        PyErr_SetString(PyExc_TypeError, "context must be a contextvars.Context");
        return -1;
    }
    if (wsgi_open(w, loop, pool) < 0 ||
        PyDict_SetItemString(w->names->template, "ringcorn.worker", presence) < 0)
        return -1;
    w->app = Py_NewRef(app);
    w->context = Py_NewRef(context);
    http->self = w;
    http->begin = on_begin;
    http->event = on_event;
    http->release = on_release;
    http->conn_freed = on_conn_freed;
    return 0;
}

void
wsgi_fini(struct wsgi *w)
{
    if (exchanges_are_at_threads(&w->exchanges))
        return;
    exchanges_fini(&w->exchanges);
    Py_CLEAR(w->app);
    Py_CLEAR(w->context);
    if (w->names != NULL)
        wsgi_names_free(w->names);
    w->names = NULL;
}

int
wsgi_add_types(PyObject *module)
{
    static const struct {
        const char *name;
        PyType_Spec *spec;
    } types[] = {
        { "_Input", &input_spec },
        { "_StartResponse", &start_spec },
        { "_Write", &write_spec },
        { "FileWrapper", &file_spec },
    };
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        PY_OWNED PyObject *type = PyType_FromModuleAndSpec(module, types[i].spec, NULL);
        if (type == NULL || PyModule_AddObjectRef(module, types[i].name, type) < 0)
            return -1;
    }
    return 0;
}

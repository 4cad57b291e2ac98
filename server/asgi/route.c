/* route.c: which route of the application a request took, for the metrics. FastAPI leaves its route object in scope["route"],
 * ringcorn.django the pattern of Django's URLconf.
 *
 * What steps of the loop have taken is noted in the request whose code took them, and counted with its route at the request's end: only then is
 * the route known. Whose it was the lease tells that is in the step's context, where there is one.
 *
 * Runs on:  the loop's thread or the request's, GIL held. */
#include "asgi.h"

#include "metrics/metrics.h"
#include "sync/sync.h"

/* The last step that somebody has looked at. GIL. */
static struct {
    const void *of; /* compared only */
    char text[METRICS_PLACE_SIZE];
} place;

/* What the framework has left: a text that lives as long as *owner, which is new; or none. */
static struct slice
route_of(const struct asgi *a, PyObject *scope, PyObject **owner)
{
    /* the key is a str: nothing is raised */
    PyObject *route = PyDict_GetItemWithError(scope, a->names->s_route);
    if (route == NULL)
        return (struct slice){ 0 };
    PY_OWNED PyObject *path = NULL;
    if (PyUnicode_Check(route)) {
        path = Py_NewRef(route);
    } else {
        /* its attribute may be the application's code */
        PY_OWNED PyObject *kept = Py_NewRef(route);
        path = PyObject_GetAttr(kept, a->names->s_path);
    }
    Py_ssize_t n = 0;
    const char *text =
        path != NULL && PyUnicode_Check(path) ? PyUnicode_AsUTF8AndSize(path, &n) : NULL;
    if (text == NULL) {
        PyErr_Clear();
        return (struct slice){ 0 };
    }
    *owner = py_take(&path);
    return (struct slice){ text, (size_t)n };
}

/* Is what answers it a coroutine function? Frameworks leave it in scope["endpoint"]. Asked once a route. */
static enum metrics_kind
kind_of(const struct asgi *a, PyObject *scope)
{
    PyObject *endpoint = PyDict_GetItemWithError(scope, a->names->s_endpoint);
    if (endpoint == NULL)
        return METRICS_KIND_UNKNOWN;
    PY_OWNED PyObject *kept = Py_NewRef(endpoint);
    PY_OWNED PyObject *module = PyImport_ImportModule("asyncio");
    PY_OWNED PyObject *is_async =
        module == NULL ? NULL : PyObject_CallMethod(module, "iscoroutinefunction", "O", kept);
    PyErr_Clear();
    return is_async == Py_True                              ? METRICS_KIND_ASYNC
           : is_async == Py_False && PyFunction_Check(kept) ? METRICS_KIND_DEF
                                                            : METRICS_KIND_UNKNOWN;
}

void
route_count(struct asgi *a, PyObject *scope, int status, const struct metrics_spent *spent,
            const void *of)
{
    PY_OWNED PyObject *owner = NULL;
    struct slice name = route_of(a, scope, &owner);
    bool is_known = of != NULL && place.of == of;
    struct metrics_route *r = metrics_count_route(name, status, spent, is_known ? place.text : "");
    if (UNLIKELY(atomic_load_explicit(&r->kind, memory_order_relaxed) == METRICS_KIND_NEW))
        atomic_store_explicit(&r->kind, name.n > 0 ? kind_of(a, scope) : METRICS_KIND_UNKNOWN,
                              memory_order_relaxed);
}

void
route_forget(const void *of)
{
    if (UNLIKELY(place.of == of))
        place.of = NULL;
}

static struct cycle *
cycle_in(const struct asgi *a, PyObject *context)
{
    /* Tasks that the request's own task has made have a copy of its context. */
    /* borrowed */
    PyObject *lease = context != NULL && a->pool != NULL ? pool_lease_in(a->pool, context) : NULL;
    return lease != NULL ? (struct cycle *)lease_request(lease) : NULL;
}

void
asgi_step(struct asgi *a, PyObject *context, const struct metrics_step *step)
{
    struct cycle *cycle = cycle_in(a, context);
    if (cycle != NULL && !cycle->is_websocket)
        metrics_step(&cycle->http->steps, step);
}

const void *
asgi_step_of(const struct asgi *a, PyObject *context)
{
    const struct cycle *cycle = cycle_in(a, context);
    return cycle != NULL ? cycle : a->first; /* no lease: the one that takes its first step */
}

void
asgi_place(const struct asgi *a, const void *of, const char *text)
{
    LIST_FOR_EACH(node, &a->cycles) {
        if (CONTAINER_OF(node, struct cycle, link) != of)
            continue;
        place.of = of;
        size_t n = strlen(text), cut = n < sizeof(place.text) ? 0 : n - (sizeof(place.text) - 1);
        while (((unsigned char)text[cut] & 0xc0) == 0x80)
            cut++; /* the end tells the most; between two characters */
        strcpy(place.text, text + cut);
        return;
    } /* else it has ended meanwhile */
}

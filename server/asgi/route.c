/* route.c: which route of the application a request took, for the metrics. FastAPI leaves its route object in scope["route"],
 * ringcorn.django the pattern of Django's URLconf.
 *
 * A long step is noted in the request whose code took it, and told with its route at the request's end: only then is the route known.
 *
 * Runs on:  the loop's thread or the request's, GIL held. */
#include "asgi.h"

#include "metrics/metrics.h"
#include "sync/sync.h"

void
route_count(struct asgi *a, PyObject *scope, int status, int64_t begun_ns, int64_t thread_ns,
            int64_t step_ns)
{
    PyObject *route = PyDict_GetItemWithError(scope, a->names->s_route);
    if (LIKELY(route == NULL))
        return; /* the key is a str: nothing is raised */
    PY_OWNED PyObject *owned = Py_NewRef(route);
    PY_OWNED PyObject *path =
        PyUnicode_Check(route) ? Py_NewRef(route) : PyObject_GetAttr(route, a->names->s_path);
    Py_ssize_t n = 0;
    const char *text =
        path != NULL && PyUnicode_Check(path) ? PyUnicode_AsUTF8AndSize(path, &n) : NULL;
    if (text == NULL) {
        PyErr_Clear();
        return;
    }
    metrics_count_route((struct slice){ text, (size_t)n }, status, clock_ns() - begun_ns, thread_ns,
                        step_ns);
}

void
asgi_long_step(struct asgi *a, PyObject *context, int64_t ns)
{
    /* Tasks that the request's own task has made have a copy of its context. */
    PyObject *lease =
        context != NULL && a->pool != NULL ? pool_lease_in(a->pool, context) : NULL; /* borrowed */
    if (lease == NULL)
        return;
    LIST_FOR_EACH(node, &a->cycles) {
        struct cycle *cycle = CONTAINER_OF(node, struct cycle, link);
        if (cycle->lease != lease)
            continue;
        cycle->step_max_ns = ns > cycle->step_max_ns ? ns : cycle->step_max_ns;
        return;
    }
}

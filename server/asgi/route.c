/* route.c: which route of the application a request took, for the metrics. FastAPI leaves its route object in scope["route"],
 * ringcorn.django the pattern of Django's URLconf.
 *
 * Runs on:  the loop's thread or the request's, GIL held. */
#include "asgi.h"

#include "metrics/metrics.h"

void
route_count(struct asgi *a, PyObject *scope, int status, int64_t begun_ns, int64_t thread_ns)
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
    metrics_count_route((struct slice){ text, (size_t)n }, status, clock_ns() - begun_ns,
                        thread_ns);
}

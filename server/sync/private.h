/* private.h: what the files of sync/ that know Python share with each other and with nobody else. */
#ifndef RINGCORN_SYNC_PRIVATE_H
#define RINGCORN_SYNC_PRIVATE_H

#include "sync/crew.h"

struct pool;

/* --- thread.c: GIL held ------------------------------------------------------------------------ */

/* Starts the threads that are wanted. 0; -1 with an exception set where there is no thread at all. May run Python. */
int threads_start(struct pool *p);
extern PyMethodDef thread_work_def;

/* Whose job this thread runs: borrowed until that ends; NULL: none, or it is no pool's. */
struct lease *thread_lease(void);

/* {ident: frame}: where threads are. New. */
PyObject *thread_places(void);
/* "function (file:line)" of places[ident], or "?"; inside Python's library also who called it. New. */
PyObject *thread_place(PyObject *places, unsigned long ident);

/* --- job.c: GIL held --------------------------------------------------------------------------- */

extern PyType_Spec job_spec;

/* Queues fn(*args) in lease l, or in a lease of its own (l NULL). owner: the Lease object, or NULL. how: as for crew_submit().
 * Returns a new future. */
PyObject *job_submit(struct pool *p, struct lease *l, PyObject *owner, enum submit how,
                     PyObject *fn, PyObject *const *args, Py_ssize_t n);

/* --- pool.c ------------------------------------------------------------------------------------- */

struct pool {
    PyObject_HEAD
    struct crew *crew;
    PyObject *loop;                      /* new */
    PyObject *name;                      /* new: str */
    PyObject *threads;                   /* new: list of threading.Thread */
    PyObject *work;                      /* new: the function that threads run */
    PyObject *context_vars;              /* new: tuple */
    PyTypeObject *job_type, *lease_type; /* new */
    PyObject *weakrefs;
    size_t started;  /* threads ever started: the next number */
    bool has_warned; /* that a thread could not be started */
};

/* The crew becomes a client of the loop, once. GIL held. -1 with an exception set. */
int pool_attach(struct pool *p);

bool pool_check(PyObject *object); /* is it a _ringcorn.Pool? */

/* --- driver.c ----------------------------------------------------------------------------------- */

extern PyType_Spec drivers_spec;

/* --- lease.c ------------------------------------------------------------------------------------ */

struct lease_object {
    PyObject_HEAD
    struct lease lease;
    struct pool *pool; /* new */
    PyObject *at_end;  /* new; or NULL */
    PyObject *last_of; /* new; or NULL */
    PyObject *request; /* borrowed, see lease_set_request(); or NULL */
    size_t calls;
    PyObject *weakrefs;
    bool is_closed;
    bool was_refused;   /* read without the GIL */
    bool has_no_thread; /* an optional job of it was dropped; read without the GIL */
};

extern PyType_Spec lease_spec;
PyObject *lease_new(struct pool *p, const char *label);

#endif

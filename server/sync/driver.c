/* driver.c: what threads do in the drivers of databases: for how long, for which request, and on which connection. The type _ringcorn.Drivers.
 *
 * Hooks in Python (ringcorn.drivers) say when a thread begins an operation of a driver and when it ends. What runs is in the thread's cell;
 * how long it took is added to its request's lease. A request that is given up (its client has gone, timeouts.request, the drain's end)
 * has its running operations cancelled by other threads (ringcorn.cancel), which do it by the driver's own way.
 *
 * No cancellation hits what it was not meant for. A cell's operations are numbered. Who cancels asks for the number that he was given: where
 * that one still runs, its end waits (without the GIL) until the cancellation has been sent, so nothing else can begin on that thread's connection
 * meanwhile; where it does not, nothing is sent. An operation beside another on the same connection is never cancelled, nor is one
 * without a connection (commits, what belongs to no query), nor what is begun inside another.
 *
 *     begin() ──> RUNNING ──end()──> nothing        start_cancel() ──> is_cancelling ──finish_cancel()──> the end may go on
 *
 * A request is told once, as a coroutine is by CancelledError: by the error of the operation that ran, or, where none did, by one that the
 * next operation raises in place of its beginning. What follows is how it cleans up, and passes; an operation of that which takes longer than
 * ringcorn.cancel's patience is cancelled too.
 *
 * Cells are plain memory, one a thread, and never freed: a thread that comes takes over one that a thread has left.
 *
 * Runs on:  any thread, GIL held, unless a function says otherwise.
 * Always:   cells, and the states of leases but LEASE_ANSWERED, are changed with the GIL alone. */
#include "sync/private.h"

#include <stdlib.h>

enum { CELLS_MAX = 8192 };

/* The state of a lease: an enum sync_cancel, and these. */
enum { LEASE_WHY = 3, LEASE_TOLD = 4, LEASE_ANSWERED = 8, LEASE_PARTED = 16 };

struct cell {
    uint64_t number; /* of the operation */
    unsigned depth;  /* operations inside operations */
    unsigned long ident;
    int64_t begun_ns;
    /* of a request; NULL: of none. Its owner is the job that runs here, or lease_owner */
    struct lease *lease;
    PyObject *lease_owner;        /* new, or NULL */
    PyObject *connection;         /* new; NULL: there is nothing to cancel */
    PyObject *driver, *statement; /* new */
    bool is_inside;               /* something is begun inside it: not now */
    bool is_shared;               /* another thread uses the same connection */
    bool outlives_client;         /* ringcorn.guard.allow("disconnect") */
    enum sync_cancel why;         /* it was cancelled */
    /* nobody knows whether the cancellation is on its way: the connection must not be used again */
    bool is_doubtful;
    atomic_bool is_cancelling;
    atomic_bool is_free; /* its thread has ended */
};

struct drivers {
    PyObject_HEAD
    PyObject *pool;      /* new, or NULL: the _ringcorn.Pool whose variables hold leases */
    PyObject *on_cancel; /* new, or NULL: on_cancel(label, why, [(cell, number)], is_late) */
    PyObject *allowed;   /* new, or NULL: the context variable of ringcorn.guard.allow() */
};

/* Of the process. */
static struct {
    struct cell *cells[CELLS_MAX];
    unsigned n;
    struct drivers *drivers; /* borrowed: the last that was made */
    pthread_key_t key;
    bool has_key;
    pthread_mutex_t lock; /* of the next */
    pthread_cond_t sent;  /* some is_cancelling was cleared */
} known = { .lock = PTHREAD_MUTEX_INITIALIZER, .sent = PTHREAD_COND_INITIALIZER };

static __thread struct cell *here;

static const char *const why_words[] = { NULL, "gone", "overdue", "leaving" };

/* --- cells ---------------------------------------------------------------------------------------------------------------- */

/* pthread_key_create()'s destructor: the thread ends, and has no GIL. What the cell holds goes with its next use. */
static void
leave_cell(void *cell)
{
    atomic_store(&((struct cell *)cell)->is_free, true);
}

static void
drop(struct cell *c)
{
    c->lease = NULL;
    PyObject *owned[] = { py_take(&c->connection), py_take(&c->driver), py_take(&c->statement),
                          py_take(&c->lease_owner) };
    for (size_t i = 0; i < ARRAY_LEN(owned); i++)
        Py_XDECREF(owned[i]); /* last: may run Python */
}

/* Of this thread; NULL: there are too many, or no memory. */
static struct cell *
take_cell(void)
{
    if (!known.has_key && pthread_key_create(&known.key, leave_cell) != 0)
        return NULL;
    known.has_key = true;
    struct cell *c = NULL;
    for (unsigned i = 0; i < known.n && c == NULL; i++)
        if (atomic_load(&known.cells[i]->is_free))
            c = known.cells[i];
    if (c == NULL && known.n < CELLS_MAX && (c = calloc(1, sizeof(*c))) != NULL)
        known.cells[known.n++] = c;
    if (c == NULL || pthread_setspecific(known.key, c) != 0)
        return NULL;
    atomic_store(&c->is_free, false);
    c->depth = 0;
    c->ident = PyThread_get_thread_ident();
    here = c;
    drop(c);
    return c;
}

static void
wait_until_sent(struct cell *c)
{
    while (UNLIKELY(atomic_load(&c->is_cancelling))) {
        Py_BEGIN_ALLOW_THREADS pthread_mutex_lock(&known.lock);
        while (atomic_load(&c->is_cancelling))
            pthread_cond_wait(&known.sent, &known.lock);
        pthread_mutex_unlock(&known.lock);
        Py_END_ALLOW_THREADS
    }
}

/* Is another thread in the middle of an operation on this one's connection? Then neither may be cancelled. mine: has its connection and depth, so
 * that who begins meanwhile sees it. */
static bool
find_shared(const struct cell *mine)
{
    bool is_shared = false;
    for (unsigned i = 0; i < known.n; i++) {
        struct cell *c = known.cells[i];
        if (LIKELY(c->connection != mine->connection || c == mine || c->depth == 0))
            continue;
        c->is_shared = is_shared = true;
        if (UNLIKELY(atomic_load(&c->is_cancelling))) { /* on its way: it would hit this one */
            wait_until_sent(c);
            i = (unsigned)-1; /* others may have come */
        }
    }
    return is_shared;
}

/* --- whose it is ------------------------------------------------------------------------------------------------------------ */

/* Of the request that the current context belongs to: new; NULL, with no exception set: none. */
static PyObject *
lease_in_context(const struct drivers *d)
{
    PY_OWNED PyObject *vars =
        d->pool != NULL ? Py_NewRef(((struct pool *)d->pool)->context_vars) : NULL;
    for (Py_ssize_t i = 0; vars != NULL && i < PyTuple_GET_SIZE(vars); i++) {
        PY_OWNED PyObject *value = NULL;
        if (PyContextVar_Get(PyTuple_GET_ITEM(vars, i), NULL, &value) < 0)
            PyErr_Clear();
        else if (value != NULL && Py_IS_TYPE(value, ((struct pool *)d->pool)->lease_type))
            return py_take(&value);
    }
    return NULL;
}

static void
find_lease(const struct drivers *d, struct cell *c)
{
    struct lease *l = thread_lease();
    if (l != NULL && l->label[0] != '\0') { /* a request's, whose job this is */
        c->lease = l;
        return;
    }
    PY_OWNED PyObject *owner = lease_in_context(d);
    if (owner == NULL)
        return;
    /* What a request has left behind (a task, which has its context) is not its own any more. */
    if (__atomic_load_n(&lease_inside(owner)->cancel_state, __ATOMIC_SEQ_CST) & LEASE_PARTED)
        return;
    c->lease = lease_inside(owner);
    c->lease_owner = py_take(&owner);
}

/* ringcorn.guard.allow("disconnect") */
static bool
outlives_client(const struct drivers *d)
{
    PY_OWNED PyObject *kinds = NULL;
    if (d->allowed == NULL || PyContextVar_Get(d->allowed, NULL, &kinds) < 0)
        PyErr_Clear();
    if (LIKELY(kinds == NULL || !PyAnySet_Check(kinds) || PySet_GET_SIZE(kinds) == 0))
        return false;
    PY_OWNED PyObject *kind = PyUnicode_FromString("disconnect");
    int is_there = kind != NULL ? PySet_Contains(kinds, kind) : -1;
    if (is_there < 0)
        PyErr_Clear();
    return is_there > 0;
}

static bool
may_cancel(const struct cell *c, enum sync_cancel why)
{
    return c->depth > 0 && c->connection != NULL && !c->is_inside && !c->is_shared &&
           !(c->outlives_client && why == SYNC_CANCEL_GONE);
}

static enum sync_cancel
why_of(unsigned state)
{
    return state & LEASE_ANSWERED ? SYNC_CANCEL_NOT : (enum sync_cancel)(state & LEASE_WHY);
}

static void
set_state(struct lease *l, unsigned bits)
{
    __atomic_fetch_or(&l->cancel_state, bits, __ATOMIC_SEQ_CST);
}

/* Hands operations over. operations: steals, NULL with an exception set passes it on. */
static void
hand_over(const struct drivers *d, const char *label, enum sync_cancel why, PyObject *operations,
          bool is_late)
{
    PY_OWNED PyObject *owned = operations;
    PY_OWNED PyObject *on_cancel = Py_XNewRef(d->on_cancel);
    PY_OWNED PyObject *text =
        owned != NULL ? PyUnicode_DecodeUTF8(label, (Py_ssize_t)strlen(label), "replace") : NULL;
    PY_OWNED PyObject *done = text != NULL && on_cancel != NULL
                                  ? PyObject_CallFunction(on_cancel, "OsOO", text, why_words[why],
                                                          owned, is_late ? Py_True : Py_False)
                                  : NULL;
    if (done == NULL && PyErr_Occurred())
        PyErr_WriteUnraisable(on_cancel);
}

/* --- for the server --------------------------------------------------------------------------------------------------------- */

bool
drivers_are_watched(void)
{
    return __atomic_load_n(&known.drivers, __ATOMIC_RELAXED) != NULL;
}

/* What runs for a request and may be cancelled. */
struct running {
    unsigned cell;
    uint64_t number;
};

/* New; NULL with an exception set. */
static PyObject *
list_of(const struct running *found, unsigned n)
{
    PY_OWNED PyObject *list = PyList_New(0);
    for (unsigned i = 0; list != NULL && i < n; i++) {
        PY_OWNED PyObject *one =
            Py_BuildValue("(IK)", found[i].cell, (unsigned long long)found[i].number);
        if (one == NULL || PyList_Append(list, one) < 0)
            return NULL;
    }
    return py_take(&list);
}

/* All is noted before anything of Python is made: that may let other threads run, which end their operations and the lease. */
void
lease_cancel(struct lease *l, enum sync_cancel why)
{
    struct drivers *d = known.drivers;
    unsigned state = __atomic_load_n(&l->cancel_state, __ATOMIC_SEQ_CST);
    if (d == NULL || d->on_cancel == NULL || (state & LEASE_ANSWERED) ||
        (state & LEASE_WHY) >= (unsigned)why)
        return;
    struct running *found = known.n > 0 ? calloc(known.n, sizeof(*found)) : NULL;
    char label[sizeof(l->label)];
    unsigned n = 0;
    memcpy(label, l->label, sizeof(label));
    __atomic_fetch_and(&l->cancel_state, ~(unsigned)LEASE_WHY, __ATOMIC_SEQ_CST);
    set_state(l, why);
    for (unsigned i = 0; found != NULL && i < known.n; i++) {
        const struct cell *c = known.cells[i];
        if (c->lease == l && may_cancel(c, why))
            found[n++] = (struct running){ i, c->number };
    }
    if (n > 0) {
        PY_OWNED PyObject *self = Py_NewRef((PyObject *)d);
        /* One that was told before is cleaning up, and gets the time for it. */
        hand_over(d, label, why, list_of(found, n), (state & LEASE_TOLD) != 0);
    }
    free(found);
}

/* The next that has a thread and is neither answered nor given up for as grave a reason. Borrowed: for as long as nothing of Python runs. */
static struct lease *
next_held(struct crew *c, enum sync_cancel why)
{
    struct lease *found = NULL;
    crew_lock(c);
    LIST_FOR_EACH(node, &c->held) {
        struct lease *l = CONTAINER_OF(node, struct lease, held);
        unsigned state = __atomic_load_n(&l->cancel_state, __ATOMIC_SEQ_CST);
        if (found == NULL && !(state & LEASE_ANSWERED) && (state & LEASE_WHY) < (unsigned)why)
            found = l;
    }
    crew_unlock(c);
    return found;
}

void
pool_cancel_held(PyObject *pool, enum sync_cancel why)
{
    PY_OWNED PyObject *self = Py_NewRef(pool);
    struct lease *l;
    /* Each is given up once, so this comes to an end. */
    while (known.drivers != NULL && known.drivers->on_cancel != NULL &&
           (l = next_held(pool_crew(self), why)) != NULL)
        lease_cancel(l, why);
}

void
lease_parted(struct lease *l)
{
    set_state(l, LEASE_PARTED);
}

void
lease_answered(struct lease *l)
{
    set_state(l, LEASE_ANSWERED);
}

enum sync_cancel
lease_why(const struct lease *l)
{
    return (enum sync_cancel)(__atomic_load_n(&l->cancel_state, __ATOMIC_RELAXED) & LEASE_WHY);
}

int64_t
lease_driver_ns(const struct lease *l)
{
    return __atomic_load_n(&l->driver_ns, __ATOMIC_RELAXED);
}

/* --- for the hooks ---------------------------------------------------------------------------------------------------------- */

/* The request was given up before, and the operation that is about to begin could be cancelled. NULL: it may begin. goes_on: it must, as it
 * is a part of a query that runs. */
static const char *
refusal(const struct drivers *d, unsigned index, struct cell *c, bool goes_on)
{
    unsigned state = __atomic_load_n(&c->lease->cancel_state, __ATOMIC_SEQ_CST);
    enum sync_cancel why = why_of(state);
    if (why == SYNC_CANCEL_NOT || !may_cancel(c, why))
        return NULL;
    bool was_told = (state & LEASE_TOLD) != 0;
    if (!was_told && !goes_on)
        return why_words[why];
    hand_over(d, c->lease->label, why,
              Py_BuildValue("[(IK)]", index, (unsigned long long)c->number), was_told);
    return NULL;
}

static unsigned
index_of(const struct cell *c)
{
    unsigned i = 0;
    while (i < known.n && known.cells[i] != c)
        i++;
    return i;
}

static PyObject *
meth_begin(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct drivers *d = (struct drivers *)self;
    if (n < 3 || n > 4) {
        PyErr_SetString(PyExc_TypeError,
                        "begin() takes a connection or None, a driver and a statement");
        return NULL;
    }
    struct cell *c = here != NULL ? here : take_cell();
    if (UNLIKELY(c == NULL))
        Py_RETURN_NONE;
    if (UNLIKELY(
            c->depth >
            0)) { /* the outer one goes on when this has ended, and until then it is not what runs */
        c->is_inside = true;
        c->depth++;
        wait_until_sent(c);
        Py_RETURN_NONE;
    }
    PyObject *connection = args[0] != Py_None ? args[0] : NULL;
    c->number++;
    c->depth = 1;
    c->is_inside = false;
    c->is_shared = c->is_doubtful = false;
    c->why = SYNC_CANCEL_NOT;
    c->begun_ns = clock_ns();
    c->connection = Py_XNewRef(connection);
    c->driver = Py_NewRef(args[1]);
    c->statement = Py_NewRef(args[2]);
    if (connection != NULL && find_shared(c))
        c->is_shared = true;
    find_lease(d, c); /* from here on it can be cancelled */
    c->outlives_client = c->lease != NULL && outlives_client(d);
    if (UNLIKELY(c->lease != NULL && READ(c->lease->cancel_state) != 0)) {
        const char *why = refusal(d, index_of(c), c, n == 4 && args[3] == Py_True);
        if (why != NULL) {
            c->depth = 0;
            drop(c);
            return PyUnicode_FromString(why);
        }
    }
    if (LIKELY(c->lease != NULL))
        WRITE(c->lease->is_in_driver, true);
    Py_RETURN_NONE;
}

/* told(): the request of this thread's code is told, by an error in place of what begin() has refused. Returns its label. */
static PyObject *
meth_told(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct cell found = { 0 };
    find_lease((struct drivers *)self, &found);
    PY_OWNED PyObject *owner = found.lease_owner;
    if (found.lease == NULL)
        Py_RETURN_NONE;
    set_state(found.lease, LEASE_TOLD);
    return PyUnicode_DecodeUTF8(found.lease->label, (Py_ssize_t)strlen(found.lease->label),
                                "replace");
}

static PyObject *
meth_end(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    (void)self, (void)args;
    struct cell *c = here;
    if (UNLIKELY(c == NULL || c->depth == 0))
        Py_RETURN_NONE;
    if (UNLIKELY(c->depth > 1)) {
        c->is_inside = --c->depth > 1;
        Py_RETURN_NONE;
    }
    wait_until_sent(c);
    c->depth = 0;
    if (c->lease != NULL)
        WRITE(c->lease->is_in_driver, false);
    if (c->lease != NULL)
        WRITE(c->lease->driver_ns, c->lease->driver_ns + clock_ns() - c->begun_ns);
    enum sync_cancel why = c->why;
    bool is_doubtful = c->is_doubtful;
    if (UNLIKELY(why != SYNC_CANCEL_NOT && n == 0 &&
                 c->lease != NULL)) /* it came too late, so nobody was told */
        __atomic_fetch_and(&c->lease->cancel_state, ~(unsigned)LEASE_TOLD, __ATOMIC_SEQ_CST);
    drop(c);
    if (UNLIKELY(is_doubtful))
        return PyUnicode_FromString("doubtful");
    return why != SYNC_CANCEL_NOT ? PyUnicode_FromString(why_words[why]) : Py_NewRef(Py_None);
}

/* --- for those who cancel ----------------------------------------------------------------------------------------------------- */

/* NULL, without an exception: another has begun there since; or with one. */
static struct cell *
find_begun(PyObject *const *args, Py_ssize_t n)
{
    if (n < 2) {
        PyErr_SetString(PyExc_TypeError, "it takes a cell and an operation's number");
        return NULL;
    }
    unsigned long i = PyLong_AsUnsignedLong(args[0]);
    unsigned long long number = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(args[1]);
    if (PyErr_Occurred() || i >= known.n)
        return NULL;
    return known.cells[i]->number == number ? known.cells[i] : NULL;
}

/* NULL, without an exception: it runs no more; or with one. */
static struct cell *
find(PyObject *const *args, Py_ssize_t n)
{
    struct cell *c = find_begun(args, n);
    return c != NULL && c->depth > 0 ? c : NULL;
}

/* (label, seconds, driver, connection, statement, ident): new. All is taken from the cell before anything is made: that may let the cell's thread run,
 * which ends the operation. */
static PyObject *
about(const struct cell *c)
{
    char label[sizeof(c->lease->label)] = "";
    if (c->lease != NULL)
        memcpy(label, c->lease->label, sizeof(label));
    PY_OWNED PyObject *driver = Py_NewRef(c->driver);
    PY_OWNED PyObject *connection = Py_NewRef(c->connection != NULL ? c->connection : Py_None);
    PY_OWNED PyObject *statement = Py_NewRef(c->statement);
    unsigned long ident = c->ident;
    double seconds = (double)(clock_ns() - c->begun_ns) / NS_PER_S;
    PY_OWNED PyObject *text = PyUnicode_DecodeUTF8(label, (Py_ssize_t)strlen(label), "replace");
    return text == NULL
               ? NULL
               : Py_BuildValue("(OdOOOk)", text, seconds, driver, connection, statement, ident);
}

static PyObject *
meth_look(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    (void)self;
    const struct cell *c = find(args, n);
    if (c == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return about(c);
}

static PyObject *
meth_start_cancel(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    (void)self;
    struct cell *c = find(args, n);
    if (c == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    unsigned state =
        c->lease != NULL ? __atomic_load_n(&c->lease->cancel_state, __ATOMIC_SEQ_CST) : 0;
    enum sync_cancel why = why_of(state);
    if (why == SYNC_CANCEL_NOT || !may_cancel(c, why) || atomic_load(&c->is_cancelling))
        Py_RETURN_FALSE;
    set_state(c->lease, LEASE_TOLD);
    c->why = why;
    atomic_store(&c->is_cancelling, true);
    Py_RETURN_TRUE;
}

/* finish_cancel(cell, number, was_sent=True). False: it could not be, and the operation's end is its own; None: nobody knows. */
static PyObject *
meth_finish_cancel(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    (void)self;
    struct cell *c = find_begun(args, n);
    int was_sent = n == 3 ? PyObject_IsTrue(args[2]) : 1;
    if (PyErr_Occurred())
        return NULL;
    if (c == NULL || !atomic_load(&c->is_cancelling))
        Py_RETURN_NONE;
    if (!was_sent) { /* nobody was told; the operation's end waits for us, so the lease is still there */
        c->why = SYNC_CANCEL_NOT;
        c->is_doubtful |= args[2] == Py_None;
        __atomic_fetch_and(&c->lease->cancel_state, ~(unsigned)LEASE_TOLD, __ATOMIC_SEQ_CST);
    }
    pthread_mutex_lock(&known.lock);
    atomic_store(&c->is_cancelling, false);
    pthread_cond_broadcast(&known.sent);
    pthread_mutex_unlock(&known.lock);
    Py_RETURN_NONE;
}

/* give_up(lease, why) */
static PyObject *
meth_give_up(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    struct drivers *d = (struct drivers *)self;
    const char *why = n == 2 ? PyUnicode_AsUTF8(args[1]) : NULL;
    if (n != 2 || d->pool == NULL || !Py_IS_TYPE(args[0], ((struct pool *)d->pool)->lease_type)) {
        PyErr_SetString(PyExc_TypeError, "give_up() takes a Lease of the pool and a reason");
        return NULL;
    }
    for (unsigned i = SYNC_CANCEL_GONE; why != NULL && i < ARRAY_LEN(why_words); i++) {
        if (strcmp(why, why_words[i]) != 0)
            continue;
        lease_cancel(lease_inside(args[0]), (enum sync_cancel)i);
        Py_RETURN_NONE;
    }
    return why == NULL ? NULL : PyErr_Format(PyExc_ValueError, "%R is no reason", args[1]);
}

/* running(ident=None) */
static PyObject *
meth_running(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    (void)self;
    unsigned long ident = n > 0 && args[0] != Py_None ? PyLong_AsUnsignedLong(args[0]) : 0;
    PY_OWNED PyObject *list = PyErr_Occurred() ? NULL : PyList_New(0);
    for (unsigned i = 0; list != NULL && i < known.n; i++) {
        const struct cell *c = known.cells[i];
        if (c->depth == 0 || (ident != 0 && c->ident != ident))
            continue;
        PY_OWNED PyObject *one = about(c);
        if (one == NULL || PyList_Append(list, one) < 0)
            return NULL;
    }
    return py_take(&list);
}

/* --- the type ------------------------------------------------------------------------------------------------------------------- */

static PyObject *
drivers_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { NULL };
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Drivers", names))
        return NULL;
    PyObject *self = type->tp_alloc(type, 0);
    if (self != NULL)
        __atomic_store_n(&known.drivers, (struct drivers *)self, __ATOMIC_RELAXED);
    return self;
}

static int
drivers_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct drivers *d = (struct drivers *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(d->pool);
    Py_VISIT(d->on_cancel);
    Py_VISIT(d->allowed);
    return 0;
}

static int
drivers_clear(PyObject *self)
{
    struct drivers *d = (struct drivers *)self;
    Py_CLEAR(d->pool);
    Py_CLEAR(d->on_cancel);
    Py_CLEAR(d->allowed);
    return 0;
}

static void
drivers_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (known.drivers == (struct drivers *)self)
        __atomic_store_n(&known.drivers, NULL, __ATOMIC_RELAXED);
    drivers_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int
set_pool(PyObject *self, PyObject *value, void *unused)
{
    struct drivers *d = (struct drivers *)self;
    (void)unused;
    if (value == NULL || value == Py_None) {
        Py_CLEAR(d->pool);
        return 0;
    }
    if (!pool_check(value)) {
        PyErr_SetString(PyExc_TypeError, "pool must be a _ringcorn.Pool");
        return -1;
    }
    Py_XSETREF(d->pool, Py_NewRef(value));
    return 0;
}

static PyObject *
get_pool(PyObject *self, void *unused)
{
    (void)unused;
    PyObject *pool = ((struct drivers *)self)->pool;
    return Py_NewRef(pool != NULL ? pool : Py_None);
}

static int
set_allowed(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    if (value != NULL && value != Py_None && !PyContextVar_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "allowed must be a context variable");
        return -1;
    }
    Py_XSETREF(((struct drivers *)self)->allowed, value != Py_None ? Py_XNewRef(value) : NULL);
    return 0;
}

static PyObject *
get_allowed(PyObject *self, void *unused)
{
    (void)unused;
    PyObject *allowed = ((struct drivers *)self)->allowed;
    return Py_NewRef(allowed != NULL ? allowed : Py_None);
}

static int
set_on_cancel(PyObject *self, PyObject *value, void *unused)
{
    (void)unused;
    Py_XSETREF(((struct drivers *)self)->on_cancel, value != Py_None ? Py_XNewRef(value) : NULL);
    return 0;
}

static PyObject *
get_on_cancel(PyObject *self, void *unused)
{
    (void)unused;
    PyObject *fn = ((struct drivers *)self)->on_cancel;
    return Py_NewRef(fn != NULL ? fn : Py_None);
}

#define FAST(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef drivers_methods[] = {
    { "begin", FAST(meth_begin), METH_FASTCALL,
      "begin(connection, driver, statement, goes_on=False): this thread goes into a driver. "
      "connection: what may be cancelled, or None. A str where it must not, as its request was "
      "given "
      "up: why, and end() is not called then. goes_on: a part of a query that runs already, which "
      "may "
      "be cancelled and not be refused." },
    { "end", FAST(meth_end), METH_FASTCALL,
      "end([exception]): this thread comes out of the driver. A str: the operation was cancelled, "
      "and "
      "why." },
    { "told", meth_told, METH_NOARGS,
      "An error is raised in place of what begin() has refused; the request's next operations "
      "pass. "
      "Its label." },
    { "look", FAST(meth_look), METH_FASTCALL,
      "look(cell, number): (label, seconds, driver, connection, statement, thread's ident), or "
      "None "
      "where the operation has ended." },
    { "start_cancel", FAST(meth_start_cancel), METH_FASTCALL,
      "start_cancel(cell, number): whether the operation still runs and may be cancelled. Its end "
      "waits from then on for finish_cancel()." },
    { "finish_cancel", FAST(meth_finish_cancel), METH_FASTCALL,
      "finish_cancel(cell, number, was_sent)" },
    { "give_up", FAST(meth_give_up), METH_FASTCALL,
      "give_up(lease, why): as the server does with a request; why: \"gone\", \"overdue\" or "
      "\"leaving\"." },
    { "running", FAST(meth_running), METH_FASTCALL,
      "running(ident=None): what runs, of one thread or of all, as look() has it." },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef drivers_getset[] = {
    { "pool", get_pool, set_pool, "The Pool whose context_vars hold the leases of requests.",
      NULL },
    { "allowed", get_allowed, set_allowed, "The context variable of ringcorn.guard.allow().",
      NULL },
    { "on_cancel", get_on_cancel, set_on_cancel,
      "on_cancel(label, why, [(cell, number)], is_late): these operations of a request that was "
      "given "
      "up are to be cancelled; is_late: they were begun after it had been told. None: nothing is.",
      NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot drivers_slots[] = {
    { Py_tp_doc, "Drivers(): what threads do in the drivers of databases." },
    { Py_tp_new, drivers_new },
    { Py_tp_dealloc, drivers_dealloc },
    { Py_tp_traverse, drivers_traverse },
    { Py_tp_clear, drivers_clear },
    { Py_tp_methods, drivers_methods },
    { Py_tp_getset, drivers_getset },
    { 0, NULL },
};

PyType_Spec drivers_spec = {
    .name = "_ringcorn.Drivers",
    .basicsize = sizeof(struct drivers),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = drivers_slots,
};

/* gil.c: how the loop gets the GIL back from threads that compute.
 *
 * CPython's rule. A thread that wants the GIL waits for the switch interval (5 ms); if nobody else got it meanwhile, it asks the holder
 * to let go, and any of those who wait gets it. With eight threads that compute the loop is one of nine: it waits 45 ms in the middle
 * and some hundred at worst, each time it wants to run.
 *
 * Where the loop goes first it lowers the interval while it waits, and puts it back when it has the GIL. CPython reads it from memory
 * when a thread begins to wait, or to wait again: so threads change quickly while the loop wants to run, and every 5 ms among themselves as
 * ever. The loop still is one of nine, but of nine short turns.
 *
 * The threads keep their share. Each holds the GIL for a quarter of what the loop last held it, and for 0.2 ms at least. As several of
 * them come before the loop mostly, about half of the time is theirs also where the loop always has work; and after 5 ms CPython
 * takes the GIL from the loop as from everybody.
 *
 * All this only while there are requests that the loop answers by itself: where all go to threads it would cost these their time for
 * nobody's good.
 *
 * README, "Beside threads that compute", has figures, and what was tried and left out.
 *
 * Runs on:  the loop's thread, unless a function says otherwise. */
#include "py/private.h"

/* What the interval is set to, in microseconds. Odd values: nobody else sets them. */
static const unsigned long asks_us[] = { 201, 403, 807, 1609 };
enum { HELD_PER_ASK = 4 };
/* The share of requests that need no thread: a moving average. */
enum { SHARE_ALL = 1 << 16, SHARE_OF = 64, ASYNC_SHARE_MIN = SHARE_ALL / 32 };

/* For the process, as is the interval. */
static struct {
    _Atomic(unsigned long *) word; /* NULL until a loop goes first */
    /* What it was when a loop lowered it last: the application's, or CPython's own. */
    atomic_ulong usual_us;
} known;

static unsigned long
get(const unsigned long *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* False: somebody else has set it meanwhile, and his number stays. */
static bool
swap(unsigned long *word, unsigned long from, unsigned long to)
{
    return __atomic_compare_exchange_n(word, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static bool
is_ours(unsigned long us)
{
    for (size_t i = 0; i < ARRAY_LEN(asks_us); i++)
        if (us == asks_us[i])
            return true;
    return false;
}

void
gil_go_first(struct loop_gil *g, bool is_first)
{
    unsigned long *word = is_first ? interval_find() : NULL;
    __atomic_store_n(&g->interval, word, __ATOMIC_RELAXED);
    if (word != NULL)
        atomic_store(&known.word, word);
    else if (is_first)
        log_info("the switch interval of this Python is out of reach: beside threads that compute, "
                 "the event loop waits as long as they do");
}

void
gil_forked(void)
{
    unsigned long *word = atomic_load(&known.word);
    if (word != NULL && is_ours(get(word)))
        swap(word, get(word), atomic_load(&known.usual_us));
}

/* By what the loop held the GIL for last. */
static unsigned long
ask_us(const struct loop_gil *g)
{
    int64_t fair_us = (g->given_ns - g->taken_ns) / 1000 / HELD_PER_ASK;
    size_t i = 0;
    while (i < ARRAY_LEN(asks_us) - 1 && fair_us > (int64_t)asks_us[i])
        i++;
    return asks_us[i];
}

/* Lowers the interval to ask. Returns what it is to be afterwards, 0 = as it is now. */
static unsigned long
begin_asking(unsigned long *word, unsigned long ask)
{
    unsigned long now = get(word), usual = now;
    /* Another loop waits, or somebody has put back what he saw while a loop waited. */
    if (UNLIKELY(is_ours(now)))
        usual = atomic_load(&known.usual_us);
    else
        atomic_store(&known.usual_us, usual); /* before the word: the child of a fork may need it */
    return usual > ask && swap(word, now, ask) ? usual : 0;
}

/* The interval, if there is reason to lower it; else NULL. Another thread may set it to NULL. */
static unsigned long *
in_hurry(const struct loop_gil *g)
{
    return g->async_share >= ASYNC_SHARE_MIN ? __atomic_load_n(&g->interval, __ATOMIC_RELAXED)
                                             : NULL;
}

PyThreadState *
gil_give(struct loop_gil *g)
{
    if (in_hurry(g) != NULL)
        g->given_ns = clock_ns();
    return PyEval_SaveThread();
}

void
gil_take(struct loop_gil *g, PyThreadState *state)
{
    unsigned long *word = in_hurry(g);
    if (word == NULL) {
        PyEval_RestoreThread(state);
        g->taken_ns = INT64_MAX; /* not known: as if for no time */
        return;
    }
    unsigned long ask = ask_us(g);
    unsigned long usual = begin_asking(word, ask);
    atomic_store_explicit(&g->asks, true, memory_order_relaxed);
    PyEval_RestoreThread(state);
    atomic_store_explicit(&g->asks, false, memory_order_relaxed);
    if (usual != 0)
        swap(word, ask, usual);
    g->taken_ns = clock_ns();
}

bool
loop_asks_for_gil(PyObject *loop)
{
    return atomic_load_explicit(&loop_of(loop)->gil.asks, memory_order_relaxed);
}

void
loop_note_request(PyObject *loop, bool is_async)
{
    struct loop_gil *g = &loop_of(loop)->gil;
    g->async_share += ((is_async ? SHARE_ALL : 0) - g->async_share) / SHARE_OF;
}

/* signals.c: signals of a worker process.
 *
 *   SIGTERM                       noted, and the loop is woken: the worker asks the master to be replaced
 *   SIGUSR2                       which requests are in hand and what is alive
 *   WORKER_STACKS_SIGNAL          all stacks: faulthandler's from the moment that Python runs, nothing before
 *   SIGINT, SIGQUIT, SIGHUP, ...  meant for the master: a terminal sends them to every process of its group
 *
 * A child that the application forks gets the defaults again: multiprocessing ends its children by SIGTERM.
 *
 * Only async-signal-safe calls in handlers (man 7 signal-safety). */
#include "asgi/asgi.h"

#include "worker/signals.h"
#include "worker/worker.h"
#include "wsgi/wsgi.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum {
    REPORTED_MAX = 20, /* requests named in a report */
};

static volatile sig_atomic_t got_term;
static struct io *volatile woken;
static const struct asgi *volatile reported;
static const struct exchanges *volatile reported_exchanges;

static void
on_term(int signal_number)
{
    (void)signal_number;
    got_term = 1;
    struct io *io = woken;
    if (io != NULL)
        io_wake(io);
}

/* Handled rather than ignored, so that programs the application starts get the default again. */
static void
on_nothing(int signal_number)
{
    (void)signal_number;
}

size_t
signals_put_number(char *to, long value)
{
    char digits[NUMBER_SIZE];
    size_t n = 0, k = 0;
    if (value < 0)
        to[n++] = '-';
    for (unsigned long left = value < 0 ? 0ul - (unsigned long)value : (unsigned long)value;
         k == 0 || left > 0; left /= 10)
        digits[k++] = (char)('0' + left % 10);
    while (k > 0)
        to[n++] = digits[--k];
    return n;
}

void
signals_report_in_hand(void)
{
    const struct asgi *asgi = reported;
    if (asgi == NULL)
        return;
    asgi_report_signal_safe(asgi, REPORTED_MAX);
    exchanges_report_signal_safe(reported_exchanges, REPORTED_MAX);
}

static void
on_report(int signal_number)
{
    (void)signal_number;
    int saved = errno;
    /* The list of requests is the loop thread's, which is the main one. The kernel prefers it unless it blocks the signal. */
    if (gettid() == getpid())
        signals_report_in_hand();
    char line[512] = "[";
    size_t n = 1 + signals_put_number(line + 1, getpid());
    static const char live_text[] = "] live:";
    memcpy(line + n, live_text, sizeof(live_text) - 1);
    n += sizeof(live_text) - 1;
    static const struct {
        const char *name;
        const long *value;
    } counters[] = {
#define X(name) { " " #name "=", &live.name },
        LIVE_COUNTERS(X)
#undef X
    };
    for (size_t i = 0; i < ARRAY_LEN(counters); i++) {
        size_t len = strlen(counters[i].name);
        if (n + len + NUMBER_SIZE >= sizeof(line))
            break;
        memcpy(line + n, counters[i].name, len);
        n += len;
        n += signals_put_number(line + n, *counters[i].value);
    }
    line[n] = '\0';
    log_signal_safe(line);
    errno = saved;
}

static const struct {
    int number;
    void (*handler)(int);
} signals[] = {
    { SIGTERM, on_term },   { SIGINT, on_nothing },  { SIGQUIT, on_nothing },
    { SIGHUP, on_nothing }, { SIGUSR1, on_nothing }, { SIGUSR2, on_report },
    { SIGPIPE, SIG_IGN },
};

static _Thread_local sigset_t before_fork;

/* What is sent to the child before it has its own handlers waits until it has. */
static void
fork_begins(void)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_fork);
}

static void
fork_ends(void)
{
    pthread_sigmask(SIG_SETMASK, &before_fork, NULL);
}

static void
forked_child(void)
{
    woken = NULL;
    reported = NULL;
    got_term = 0;
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        struct sigaction now, action = { .sa_handler = SIG_DFL };
        sigemptyset(&action.sa_mask);
        /* A handler of the application's own stays, and so does SIG_IGN, which is Python's too for SIGPIPE. */
        if (signals[i].handler != SIG_IGN && sigaction(signals[i].number, NULL, &now) == 0 &&
            (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == signals[i].handler)
            sigaction(signals[i].number, &action, NULL);
    }
    fork_ends();
}

static void
install(int signal_number, void (*handler)(int))
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    sigaction(signal_number, &action, NULL);
}

void
signals_install_early(void)
{
    install(WORKER_STACKS_SIGNAL, on_nothing); /* no constant, so not in the table */
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        install(signals[i].number, signals[i].number == SIGTERM ? SIG_DFL : signals[i].handler);
}

void
signals_install_late(void)
{
    struct sigaction now;
    if (sigaction(SIGTERM, NULL, &now) == 0 && now.sa_handler == SIG_DFL)
        install(SIGTERM, on_term);
    int err = pthread_atfork(fork_begins, fork_ends, forked_child);
    if (err != 0)
        log_warning(
            "pthread_atfork failed: SIGTERM does not end children that the application forks: %s",
            strerror(err));
}

void
signals_install(void)
{
    signals_install_early();
    signals_install_late();
}

void
signals_attach(struct io *io, const struct asgi *asgi, const struct exchanges *exchanges)
{
    woken = io;
    reported_exchanges = exchanges;
    reported = asgi;
}

bool
signals_have_term(void)
{
    return got_term != 0;
}

bool
signals_take_term(void)
{
    if (got_term == 0)
        return false;
    got_term = 0;
    return true;
}

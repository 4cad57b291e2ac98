/* crash.c: what is said when C code, ours or an extension's, crashes: the C stack and the requests in hand. Python's own handler
 * (faulthandler) comes first, shows the Python stacks of all threads, and raises the signal again for the one that was there before
 * it: this one. Then the signal does what it always does, a core dump where RLIMIT_CORE allows one.
 *
 * Only async-signal-safe calls, on a stack of its own, since the thread's may be what has run out. backtrace() is safe once its library is
 * loaded, hence the first call at start. The list of requests is the loop thread's; where another thread crashes it may be in the middle of a
 * change, so it comes last: a second crash ends the process at once, with all the rest said. */
#include "asgi/asgi.h"

#include "worker/signals.h"

#include <execinfo.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { STACK_SIZE = 64 * 1024, FRAMES_MAX = 64 };

static const struct {
    int number;
    const char *name;
} crashes[] = {
    { SIGSEGV, "SEGV" }, { SIGBUS, "BUS" },   { SIGILL, "ILL" },
    { SIGFPE, "FPE" },   { SIGABRT, "ABRT" },
};

static pid_t worker_pid;
static unsigned worker_slot;

static size_t
put(char *to, const char *text)
{
    size_t n = strlen(text);
    memcpy(to, text, n);
    return n;
}

/* "[4711] worker 0 crashes by signal 11 (SEGV) in thread 4713 (ringcorn-sync); its C stack:" */
static void
say_what(int number)
{
    char line[256], thread[32] = "";
    const char *name = "?";
    for (size_t i = 0; i < ARRAY_LEN(crashes); i++)
        if (crashes[i].number == number)
            name = crashes[i].name;
    (void)prctl(PR_GET_NAME, thread);
    size_t n = put(line, "[");
    n += signals_put_number(line + n, worker_pid);
    n += put(line + n, "] worker ");
    n += signals_put_number(line + n, (long)worker_slot);
    n += put(line + n, " crashes by signal ");
    n += signals_put_number(line + n, number);
    n += put(line + n, " (");
    n += put(line + n, name);
    n += put(line + n, ") in thread ");
    n += signals_put_number(line + n, (long)gettid());
    n += put(line + n, " (");
    n += put(line + n, thread);
    n += put(line + n, "); its C stack:");
    line[n] = '\0';
    log_signal_safe(line);
}

static void
on_crash(int number)
{
    if (getpid() == worker_pid) { /* not a child that the application forked */
        void *frames[FRAMES_MAX];
        say_what(number);
        int n = backtrace(frames, FRAMES_MAX);
        backtrace_symbols_fd(frames, n, log_fd());
        signals_report_in_hand();
    }
    raise(number); /* SA_RESETHAND has brought the default back, SA_NODEFER lets it through */
}

void
crash_use_stack(void)
{
    static char room[STACK_SIZE] __attribute__((aligned(16)));
    const stack_t stack = { .ss_sp = room, .ss_size = sizeof(room) };
    (void)sigaltstack(&stack, NULL);
}

void
crash_own(unsigned slot)
{
    worker_pid = getpid();
    worker_slot = slot;
}

void
crash_install(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)on_crash; /* the sanitizer's own reports say more */
#else
    void *frames[1];
    (void)backtrace(frames, 1);
    crash_use_stack();
    struct sigaction action = { .sa_handler = on_crash,
                                .sa_flags = SA_ONSTACK | SA_NODEFER | (int)SA_RESETHAND };
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < ARRAY_LEN(crashes); i++)
        sigaction(crashes[i].number, &action, NULL);
#endif
}

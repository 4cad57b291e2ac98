/* thread.h: threads of the server's own, which no signal is delivered to: those are the application's and the main thread's. */
#ifndef RINGCORN_BASE_THREAD_H
#define RINGCORN_BASE_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <stddef.h>

/* pthread_create() with all signals blocked, in the new thread alone. stack: its size in bytes, at least PTHREAD_STACK_MIN; 0 = the
 * system's. 0, or its error number with *out undefined. Any thread. */
static inline int
thread_start(pthread_t *out, size_t stack, void *(*run)(void *), void *arg)
{
    pthread_attr_t attr;
    sigset_t all, before;
    pthread_attr_init(&attr);
    if (stack > 0)
        pthread_attr_setstacksize(&attr, stack);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(out, &attr, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return err;
}

#endif

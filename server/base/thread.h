/* thread.h: threads of the server's own, which no signal is delivered to. */
#ifndef RINGCORN_BASE_THREAD_H
#define RINGCORN_BASE_THREAD_H

#include <pthread.h>
#include <signal.h>

/* pthread_create() with all signals blocked, in the new thread alone. 0, or its error number with *out undefined. Any thread. */
static inline int
thread_start(pthread_t *out, void *(*run)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(out, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

#endif

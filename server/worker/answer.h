/* answer.h: what ringcornctl asks of a worker is answered on a thread of its own, so that also a worker whose loop stands, or that still
 * imports its application, can be looked at. */
#ifndef RINGCORN_WORKER_ANSWER_H
#define RINGCORN_WORKER_ANSWER_H

#include "asgi/asgi.h"

/* Starts the thread for the socket asks (worker_args.asks; -1: a no-op). GIL held. What cannot be had is logged. */
void answer_start(int asks);
/* What is served, and the loop that serves it; NULL = none any more. Loop's thread, GIL held. exchanges: may be NULL. */
void answer_attach(PyObject *loop, struct asgi *asgi, struct exchanges *exchanges);
/* Ends the thread; a question that is being answered is finished first. GIL held, and given away while it waits. */
void answer_stop(void);
/* In a child that the application has forked: there is no thread. */
void answer_forget(void);

#endif

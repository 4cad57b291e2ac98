/* advice.h: what would be better for a route, judged by its figures; and for the threads. A pure function of numbers, and no more: who gathers
 * them, and over which time, is master/advise.c.
 *
 * A verdict is a sentence with its figures and what it would gain, as a number that can be tried: make the change, look again. */
#ifndef RINGCORN_METRICS_ADVICE_H
#define RINGCORN_METRICS_ADVICE_H

#include <stdbool.h>

#include "metrics/metrics.h"

enum advice_kind {
    ADVICE_TOO_FEW, /* not enough was seen */
    ADVICE_NONE,    /* it is no route: all that have none */
    ADVICE_KEEP,    /* it is right as it is */
    ADVICE_DEF,     /* it blocks the loop: a thread should do it */
    ADVICE_ASYNC,   /* its thread waits for the network: the loop can do that */
    ADVICE_PROCESS, /* it computes: more threads do not help, another process does */
    ADVICE_DATABASE, /* its thread waits for the database: right as it is, the queries are what takes the time */
    ADVICE_CROSSINGS, /* it goes to a thread and back again and again: once would do */
    ADVICE_FEWER,     /* of the threads: fewer would do */
    ADVICE_MORE,      /* more would end a wait */
    ADVICE_PROCESSES, /* there is a wait, but threads compute: more workers would end it */
    ADVICE_KINDS,
};

/* "async": for JSON. */
const char *advice_name(enum advice_kind kind);

enum { ADVICE_TEXT_SIZE = 384 };

struct advice {
    enum advice_kind kind;
    double gain;    /* 0: none */
    const char *of; /* what it is a number of: "threads freed"; "" = none */
    /* for sorting: how much of the server's time it is about, in threads or loops that it keeps busy */
    double worth;
    char text[ADVICE_TEXT_SIZE];
};

/* Means of one request, in seconds. Those of a route's threads and loop add up to `request`, with what is left in `awaits`. */
struct advice_route {
    double requests; /* that the means are of */
    double request;
    double queue;  /* waits for a thread */
    double thread; /* on a thread, of which: */
    double cpu;    /*   it computes */
    double gil;    /*   it waits for the GIL */
    double network, sleep, other;
    double starved; /*   it waits for a CPU; or for what is not known */
    /*   a database's driver has it, without the GIL's wait behind it; part of the others */
    double database;
    double loop;         /* steps of the event loop, of which: */
    double loop_cpu;     /*   it computes */
    double loop_gil;     /* before them, the loop waits for the GIL */
    double awaits;       /* nothing of ours has it: it awaits sockets, timers, its client */
    double crossings;    /* to a thread */
    double long_steps;   /* of METRICS_LONG_STEP_NS and more */
    double long_step;    /* the mean of these */
    double long_gil;     /* of that, it waits for the GIL, which it has lost in its middle */
    double longest_step; /* ever */
    double busy_threads; /* that it keeps, in the middle */
    double busy_cpu;     /* GILs that it keeps: CPU seconds in a second */
    enum metrics_kind kind;
    bool is_looked; /* threads were looked at often enough to tell what they wait for */
};

struct advice_server {
    double seconds; /* the time that the figures are of */
    unsigned workers;
    unsigned slots; /* threads that may run at once, of all workers */
};

/* sum: of those seconds. */
void advice_means(const struct metrics_route_sum *sum, const struct advice_server *server,
                  struct advice_route *out);
/* name: in words; place: of its longest step, "" = not known. */
void advice_route(const char *name, const char *place, const struct advice_route *r,
                  const struct advice_server *server, struct advice *out);

/* All routes together; the shares of what threads do are those of routes. */
struct advice_threads {
    double requests; /* that have used threads */
    double busy;     /* threads in use, in the middle: by the caller, as not only routes use them */
    double counted;  /* of these, those of routes */
    double seen;     /* of these, those of routes whose threads were looked at */
    double gil;      /* of these, those that wait for the GIL, or for a CPU */
    double cpu;      /* of these, those that compute */
    double waiting;  /* requests that wait for a thread, in the middle */
    double wait;     /* seconds that one of those requests waits */
    double needed;   /* threads that would do */
};
void advice_threads_add(struct advice_threads *to, const struct advice_route *r,
                        const struct advice_server *server);
/* Fills in to->needed. */
void advice_threads(struct advice_threads *to, const struct advice_server *server,
                    struct advice *out);

#endif

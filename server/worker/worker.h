/* worker.h: one worker process, and the few words it exchanges with the master.
 *
 *   worker.c    builds the loop, the server and the interpreter out of all the lower folders, and takes them down again
 *   control.c   the control socket: what the master says, what the worker answers
 *   preload.c   the process that imports the application once and forks the workers, under `preload`
 *   answer.c    the thread that answers what ringcornctl asks of this worker
 *   crash.c     the C stack and the requests in hand of one that crashes
 *   signals.c   signals of the worker        versions.c  what --version says of Python and the loop
 *
 * The master forks; the child calls worker_run() and exits with what it returns. */
#ifndef RINGCORN_WORKER_H
#define RINGCORN_WORKER_H

#include <signal.h>
#include <sys/types.h>

#include "conf/conf.h"

/* Control protocol: one struct control_msg a datagram (SOCK_SEQPACKET), master <-> worker; a listening socket travels as
 * SCM_RIGHTS beside CONTROL_LISTEN. The end of the stream tells a worker that its master has died: it drains. */
enum control_kind {
    /* master -> worker */
    CONTROL_LISTEN =
        'L', /* accept from the attached socket too; id names it. The worker's own and, while a sibling's slot has
                             no ready worker, the sibling's */
    CONTROL_LISTEN_TLS = 'S', /* the same, and what is accepted speaks TLS */
    /* certificates and keys for new handshakes are in the attached memfd (net/tls.h) */
    CONTROL_CERTS = 'T',
    /* stop accepting from socket id: somebody else does. Connections that came by it end after their answers */
    CONTROL_UNLISTEN = 'U',
    /* no other process accepts from socket id. One that comes later does it with care (net.h, listener_alone()) */
    CONTROL_ALONE = 'M',
    /* the server is about to stop: health.ready says 503, nothing else changes */
    CONTROL_UNREADY = 'Y',
    /* graceful: stop accepting, answer what there is, leave; id: enum control_why */
    CONTROL_DRAIN = 'D',
    CONTROL_QUIT = 'Q', /* quick: as DRAIN, but requests are cancelled at once */
    /* run service id (its place in this worker's configuration), of which there is one in all */
    CONTROL_SERVICE = 'V',
    /* a log file was reopened: dup3() the attached descriptor onto descriptor id (2, or access_fd) */
    CONTROL_REOPEN = 'O',
    /* On a socket of their own, worker_args.asks. Questions of ringcornctl: id is to be given back with CONTROL_ANSWER, after JSON was
     * written to the attached memfd */
    CONTROL_ASK_REQUESTS = 'r',
    CONTROL_ASK_TASKS = 'k',
    CONTROL_ASK_THREADS = 't',
    CONTROL_ASK_SERVICES = 'v',
    CONTROL_ASK_BLOCKS = 'b',
    CONTROL_LOG_LEVEL = 'l', /* on the same socket: id is an enum log_level; no answer */
    CONTROL_PING = 'I',      /* is the loop turning? It answers CONTROL_PONG, in its I/O phase */
    /* To the process of worker_preload(), which is told CONTROL_REOPEN and CONTROL_CERTS too: fork a worker for slot id, whose metrics are in that block
     * (-1 = none). With it come its ends of control and of its log ring, and of asks where it has one. One at a time */
    CONTROL_FORK = 'F',
    /* worker -> master */
    CONTROL_PONG = 'N',
    CONTROL_ANSWER = 'a', /* on worker_args.asks: what was asked by id is written */
    /* application imported, lifespan.startup complete; the master answers with CONTROL_LISTENs */
    CONTROL_READY = 'R',
    CONTROL_LISTENING = 'A', /* accepting from socket id now */
    CONTROL_REPLACE =
        'P', /* wants to go (somebody sent it SIGTERM): the master starts another and, once that one accepts, sends
                                CONTROL_DRAIN. A service manager that signals the whole group means the master, which then drains in order.
                                A worker that cannot reach the master drains by itself */
    CONTROL_SERVED = 'C', /* has served recycle.max_requests: id of them. As CONTROL_REPLACE */
    /* service id does not run here any more, as this worker leaves */
    CONTROL_SERVICE_STOPPED = 'X',
    /* the same: it is over (restart), and no other worker is to run it */
    CONTROL_SERVICE_ENDED = 'E',
    CONTROL_DRAINED = 'G', /* accepts no more and holds no request; lifespan.shutdown runs */
    /* the process of worker_preload() -> master; CONTROL_READY there: the application is imported */
    /* id: the worker's pid; before the worker becomes the master's child. < 0: -errno, there is none */
    CONTROL_FORKED = 'f',
};

/* Why a worker is told to leave. */
enum control_why {
    CONTROL_WHY_STOP,
    CONTROL_WHY_RELOAD,
    CONTROL_WHY_SCALE,   /* fewer workers are wanted */
    CONTROL_WHY_RECYCLE, /* another takes its place: recycle.*, or it was sent SIGTERM */
    CONTROL_WHY_UPGRADE, /* another program takes over */
};

struct control_msg {
    unsigned char kind;
    int32_t id;
    int32_t block; /* of CONTROL_FORK */
};

/* Returns 0 or -errno. fd: -1 or the socket to pass along. */
int control_send(int sock, enum control_kind kind, int32_t id, int fd);
/* Non-blocking sockets: -EAGAIN when there is nothing, -EPIPE at the end of the stream, -EBADMSG for what is no message.
 * *fd is -1 or new (close-on-exec); -1 beside CONTROL_LISTEN when this process had no descriptor free. */
int control_recv(int sock, struct control_msg *msg, int *fd);
/* The same with several descriptors: n, at most CONTROL_FDS_MAX. Of those that are received, the last are -1 where fewer came. */
enum { CONTROL_FDS_MAX = 3 };
int control_send_fds(int sock, const struct control_msg *msg, const int *fds, size_t n);
int control_recv_fds(int sock, struct control_msg *msg, int *fds, size_t n);

struct tls_set;
struct tls_tickets;

struct worker_args {
    const struct conf *conf;
    unsigned slot;               /* 0.. */
    unsigned generation;         /* of the configuration */
    int control;                 /* the worker's end; worker_run() owns it */
    int asks;                    /* the same, for questions; -1 = none will come */
    int access_fd;               /* -1 = no access log */
    struct tls_set *tls;         /* NULL = none; worker_run()'s */
    struct tls_tickets *tickets; /* NULL = none */
    const char *exe; /* path of the running program, to find its Python package beside it */
    int argc;
    char **argv;
};

/* Runs the worker to its end in this (just forked) process. The caller has closed what only the master needs, reset signals to their
 * defaults and emptied the mask. Returns the exit code: EXIT_CODE_OK after a drain, EXIT_CODE_APP or EXIT_CODE_NOT_FOUND when the application could not be started
 * (its traceback was printed), EXIT_CODE_SYSTEM when the machine refused something.
 * Signals in the worker: SIGTERM drains, SIGQUIT and SIGINT are ignored (the master passes on what they mean: a terminal sends them to every
 * process). SIGUSR2 writes the requests in hand and the live counters to the error log, and harms nothing. WORKER_STACKS_SIGNAL is
 * faulthandler's and writes the stacks of all threads: for a worker that is about to be killed, since a thread that runs
 * meanwhile can change its frames under the reader. */
#define WORKER_STACKS_SIGNAL (SIGRTMIN + 1)

int worker_run(const struct worker_args *args);

/* The process of `preload`: imports the application, tells CONTROL_READY on args->control, and forks a worker for each CONTROL_FORK that comes there, which
 * becomes a child of the master's. In the process itself it returns when the master has closed its end (then its exit code tells nothing), or the exit code of an application that cannot
 * be imported; in each worker, what worker_run() would. slot and asks are the workers'. SIGTERM ends it. As for a worker, all that is
 * the master's was closed, and rights were given up. */
int worker_preload(const struct worker_args *args);

/* For --check-config: starts Python in this (just forked) process, imports the application and prints what there is to say about it
 * (python/ringcorn/check.py). No loop, no socket, signals stay as they are; args->control is -1. Returns the exit code. */
int worker_check(const struct worker_args *args);

/* Fills in what --version prints about Python and the loop's backend, one "name value" a line. */
void worker_versions(FILE *out);

#endif

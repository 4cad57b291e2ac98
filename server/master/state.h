/* state.h: what the files of the master share. One thread, one struct master; times are
 * clock_ns(), 0 = none. */
#ifndef RINGCORN_MASTER_STATE_H
#define RINGCORN_MASTER_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "conf/conf.h"
#include "ctl.h"
#include "events.h"
#include "handover.h"
#include "logs.h"
#include "master.h"
#include "metrics/metrics.h"
#include "net/tls.h"
#include "privileges.h"
#include "sockets.h"
#include "watch.h"
#include "worker/worker.h"

enum preload_state {
    PRELOAD_IMPORTS,
    PRELOAD_READY,
    PRELOAD_LEAVING, /* it is not needed any more */
    PRELOAD_DUMPING, /* asked for its stacks, about to be killed */
    PRELOAD_KILLED,
};

/* The process that imports the application for a configuration and forks its workers; preload.c. */
struct preload {
    struct list node; /* in master.preloads until it is reaped */
    pid_t pid;
    unsigned generation;
    enum preload_state state;
    int control; /* our end, or -1 after its end of the stream */
    struct log_source *log;
    int access_fd;       /* its number there, or -1 */
    uint32_t certs;      /* certs.version that it has */
    struct child *asked; /* the worker that it forks just now, or NULL */
    int64_t started_ns;
    int64_t deadline_ns; /* of the state it is in, or of the fork; 0 = none */
};

/* A configuration and what was looked up for it. Workers are forked with one. */
struct generation {
    unsigned number;
    struct conf *conf;
    struct privileges privileges;
    struct tls_set *tls; /* NULL = no TLS */
    uint64_t tls_stamp;  /* of the files it was made of */
};
void generation_fini(struct generation *g);

enum child_state {
    CHILD_BOOTING,
    CHILD_READY,
    CHILD_LEAVING, /* told to drain or to quit, or going by itself */
    CHILD_DUMPING, /* asked for its stacks, about to be killed */
    CHILD_KILLED,
};

/* What a descriptor in the control socket's epoll is; ctl.c. */
struct ctl_source {
    enum { CTL_LISTENER, CTL_CLIENT, CTL_WORKER } kind;
    void *self;
};

/* A socket that a worker was told to accept from. */
struct told {
    int32_t id;
    bool is_accepting; /* it answered */
    bool is_alone;     /* it knows that it is the only one */
};

/* One worker process. */
struct child {
    struct list node; /* in master.children until it is reaped */
    pid_t pid;        /* 0: `preload`, and it is not forked yet */
    /* The worker's ends of control, asks and the memfd of its log, until then; else -1 */
    struct {
        int control, asks, log;
    } unborn;
    const struct preload *forker; /* that it waits for, or NULL */
    unsigned slot;
    unsigned generation;
    enum child_state state;
    uint32_t certs; /* certs.version that it has */
    bool was_ready;
    bool is_drained;               /* holds no request any more; lifespan.shutdown runs */
    struct metrics_block *metrics; /* where it counts, its heartbeat; NULL = in its own memory */
    int control;                   /* our end, or -1 after its end of the stream */
    int asks; /* our end for questions that a thread of its own answers, or -1 */
    struct ctl_source ctl_source; /* of asks */
    struct log_source *log;
    int access_fd;      /* its number in the worker, or -1 */
    int64_t startup_ms; /* its timeouts.startup */
    int64_t started_ns, ready_ns;
    int64_t pinged_ns;     /* CONTROL_PING sent and not answered, 0 = none */
    int64_t heard_ns;      /* the last CONTROL_PONG */
    int64_t deadline_ns;   /* of the state it is in */
    int64_t replace_at_ns; /* it is to be replaced: when to start another */
    char replace_why[96];  /* for the log: "has served 1000 requests (recycle.max_requests)" */
    enum metrics_restart replace_reason;
    uint64_t turns; /* of its loop, at the last look (watchdog.c) */
    /* it has not turned since then, as far as this master has seen; 0 = it has */
    int64_t turns_since_ns;
    bool is_stopped_said, is_hung;
    /* number of the block of its loop that was told last (metrics_read_blocked()) */
    uint32_t blocked;
    struct told *told;
    unsigned told_n;
};

struct slot {
    struct child *current;    /* BOOTING or READY, or NULL */
    struct child *next;       /* its replacement, until that one accepts */
    int64_t start_ns;         /* when to start a worker; 0 = nothing is due */
    unsigned failures;        /* deaths before ready, in a row */
    unsigned short_lives;     /* deaths soon after ready, in a row */
    bool is_stuck;            /* its replacement failed in this reload: the old one stays */
    bool is_vacant;           /* a worker of it has died, and no other was started since */
    enum metrics_restart why; /* it has died, where it is vacant */
};

enum reload_state {
    RELOAD_NONE,
    RELOAD_TRYING,    /* slot 0 boots its replacement; nothing has changed yet */
    RELOAD_REPLACING, /* the new configuration holds; slot by slot */
};

enum reload_end {
    RELOAD_DONE,
    RELOAD_FAILED, /* nothing has changed */
    RELOAD_STUCK,  /* some workers could not be replaced */
};

struct reload {
    enum reload_state state;
    unsigned begun,
        ended;            /* numbers of the last one that has begun, and that has ended; 0 = none */
    enum reload_end how;  /* it has ended */
    bool is_wanted_again; /* SIGHUPs that came meanwhile */
    const char *why;      /* it is wanted; a literal */
    struct generation next; /* TRYING */
    struct sockets_change change;
    bool is_pid_file_new; /* TRYING: written under a path that differs from the old one */
    int64_t started_ns;
};

enum stop_state {
    STOP_NONE,
    STOP_NOTICE, /* graceful, with timeouts.drain_delay: all is served, and health.ready says 503 */
    STOP_DOORS,  /* graceful: nobody new gets in; workers take what waits in the queues */
    STOP_LEAVING,
};

struct stop {
    enum stop_state state;
    int signal;          /* the first that asked for it, 0 = an error */
    bool is_handed_over; /* the next master serves; workers here finish what they have */
    int64_t begun_ns;
    int64_t until_ns;  /* of NOTICE and DOORS */
    int64_t notice_ns; /* quick: when to say who is still busy */
    bool was_empty;    /* queues, at the last look */
};

enum upgrade_state {
    UPGRADE_NONE,
    UPGRADE_TRYING,  /* the next master boots its workers; nothing has changed here */
    UPGRADE_TAKING,  /* this is the next one, and it boots */
    UPGRADE_OFFERED, /* its workers accept, and the other one knows */
};

/* Another program takes the place of this one; upgrade.c. */
struct upgrade {
    enum upgrade_state state;
    bool is_wanted;
    bool is_told_to_end; /* it took too long */
    pid_t pid;           /* of the next master, until it is reaped; 0 = none */
    int channel;         /* between the two, -1 = none */
    int64_t begun_ns, deadline_ns;
    char *program; /* what is executed */
    char *folder;  /* where this one was started, as the shell named it; NULL = unknown */
    struct handover handover;
};

/* TLS; certs.c. */
struct certs {
    struct tls_tickets *tickets; /* NULL until they are needed; then as long as the master lives */
    uint64_t seen_stamp;         /* of the files, at the last look */
    uint32_t version;            /* counts what was loaded */
    int fd;                      /* the last, packed, while a worker has not got it; else -1 */
    int64_t look_ns, rotate_ns, retry_ns; /* when; 0 = never */
    int64_t dates_ns;                     /* when to look whether one ends soon; 0 = never */
};

enum notify_state { NOTIFY_STARTING, NOTIFY_READY, NOTIFY_RELOADING, NOTIFY_STOPPING };

/* notify.c's */
struct notify {
    int fd; /* -1: nobody wants to know */
    enum notify_state state;
    char *path;          /* NOTIFY_SOCKET, for the next master */
    char status[128];    /* the last STATUS= */
    int64_t watchdog_ns; /* between two WATCHDOG=1; 0 = none */
    int64_t alive_at_ns; /* when the next is due */
};

/* A service of which there is one instance in all; services.c. */
struct service {
    char *name;
    /* the worker that runs it, until it has said that it does not, or is dead; NULL = none */
    struct child *holder;
    int32_t id;       /* the holder's number of it */
    unsigned over_in; /* it is over by itself, and not started again in this generation; 0 = no */
};

struct master {
    const struct master_args *args;
    struct generation now;
    unsigned generations; /* numbers given so far */
    struct sockets sockets;
    struct logs logs;
    struct certs certs;
    int signal_fd;
    struct list children;
    struct list preloads;
    unsigned preload_failures; /* deaths in a row that nobody asked for */
    int64_t preload_at_ns; /* when to import anew, though no worker is waited for; 0 = no need */
    struct slot *slots;
    /* of this configuration and, while workers hold them, of earlier ones */
    struct service *services;
    unsigned services_n;
    unsigned slots_n;   /* slots that have sockets: never less */
    unsigned wanted;    /* workers that should be: slots 0..wanted-1 */
    bool was_ready;     /* some worker was, once */
    uint64_t oom_kills; /* conf_oom_kills(), at the last look */
    struct reload reload;
    struct stop stop;
    struct upgrade upgrade;
    int64_t recycle_at_ns, watchdog_at_ns; /* the next look; 0 = none */
    struct notify notify;
    struct watch *watch;       /* NULL: reload.enabled is off */
    bool waits;                /* the application cannot start: for a change of its files */
    struct health *health;     /* NULL = health.bind is not set */
    struct ctl *ctl;           /* NULL = neither control.socket nor metrics.page is set */
    struct events *events;     /* NULL: no memory for them */
    struct list ctl_jobs;      /* commands that wait for something */
    struct advise_past advise; /* readings of the last minutes */
    int64_t begun_ns;          /* clock_ns() at the start */
    struct metrics *metrics;
    int metrics_fd; /* its memfd */
    int exit_code;
};

/* --- child.c --- */
/* Forks a worker into a slot. Returns 0 or -errno, logged; *out is in m->children. */
int child_start(struct master *m, unsigned slot, const struct generation *g, struct child **out);
/* For the metrics: a worker was started in place of another. */
void child_count_restart(const struct master *m, unsigned slot, enum metrics_restart why);
/* Tells it to go: CONTROL_DRAIN or CONTROL_QUIT; killed after timeouts.graceful. Its slot is the
 * caller's to clear. */
void child_leave(struct master *m, struct child *c, enum control_kind kind);
/* Asks for its stacks and kills it shortly after. */
void child_end_now(struct child *c);
/* When a worker that leaves from now on must be gone (monotonic), or 0: any time. */
int64_t child_leave_by(const struct master *m);
/* Reads what it says; may call slots_ready(), coverage_update(). */
void child_read(struct master *m, struct child *c);
/* The one way to change its state: the metrics have it too. */
void child_to(struct child *c, enum child_state state);
/* Deadlines. */
void child_tick(struct master *m, struct child *c, int64_t now_ns);
/* Waits for the dead, and calls slots_died() for each of ours. */
void children_reap(struct master *m);
void child_free(struct master *m, struct child *c);
/* Accepts from all the sockets that it was told of. */
bool child_is_accepting(const struct child *c);
#define CHILDREN_EACH(c, m)                                                                        \
    for (struct child *c = CONTAINER_OF((m)->children.next, struct child, node);                   \
         &c->node != &(m)->children; c = CONTAINER_OF(c->node.next, struct child, node))

/* A process that is the master's no more: drops all that is, then runs worker_run() or, is_preload, worker_preload(). Returns its pid, or -errno. args: slot, control and
 * asks are filled in. */
pid_t child_fork(struct master *m, const struct generation *g, const struct worker_args *args,
                 bool is_preload, struct metrics_block *metrics, const struct log_source *log);
/* It was forked, by a process of preload.c. */
void child_born(struct child *c, pid_t pid);
/* It will never be: slots_died() is told that status, and c is freed. */
void child_unborn(struct master *m, struct child *c, int status);

/* --- preload.c --- */
/* Has a worker, which is in m->children, forked as soon as the application is imported. Returns 0 or -errno, logged. */
int preload_ask(struct master *m, const struct generation *g, struct child *c);
/* Reads what they say: of workers that were forked, before the death of one is dealt with. */
void preload_read(struct master *m);
/* Whether the dead process was one. */
bool preload_reaped(struct master *m, pid_t pid, int status);
/* Starts, asks and ends what is due. */
void preload_tick(struct master *m, int64_t now_ns);
int64_t preload_next_ns(const struct master *m);
/* In a forked child: closes descriptors, no more. */
void preload_forget(const struct master *m);
/* Who forks the workers of the present configuration, or NULL. */
const struct preload *preload_now(const struct master *m);
#define PRELOADS_EACH(p, m)                                                                        \
    for (struct preload *p = CONTAINER_OF((m)->preloads.next, struct preload, node);               \
         &p->node != &(m)->preloads; p = CONTAINER_OF(p->node.next, struct preload, node))

/* --- slots.c --- */
/* Makes room for n slots and opens their sockets. Returns 0 or -EXIT_CODE_SYSTEM, printed. */
int slots_grow(struct master *m, unsigned n);
/* Starts what is due, ends what is too much. */
void slots_tick(struct master *m, int64_t now_ns);
void slots_ready(struct master *m, struct child *c);
void slots_died(struct master *m, struct child *c, int status);
/* A worker is to be replaced after a while, with its successor ready first; one at a time. why: what is said about it. */
void slots_ask(struct master *m, struct child *c, enum metrics_restart reason, int64_t wait_ms,
               const char *why, ...) __attribute__((format(printf, 5, 6)));
/* A worker drains without having been told to: its slot gets another at once. */
void slots_went(struct master *m, struct child *c);
/* So many workers from now on; 0 = none, connections wait. It outlives reloads that leave `workers` as it is. Returns 0; -EBUSY: the
 * server stops, or another program takes over; -ERANGE: too many; -EAGAIN: sockets cannot be had, printed. */
int slots_scale(struct master *m, unsigned n);
/* One more or one less (SIGTTIN, SIGTTOU); none (SIGWINCH), unless a terminal sends that whenever its size changes. */
void slots_more(struct master *m);
void slots_less(struct master *m);
void slots_rest(struct master *m);
/* How many there should be when conf takes the place of the configuration in force. */
unsigned slots_wanted_by(const struct master *m, const struct conf *conf);
/* Ends workers of slots that are not wanted. */
void slots_trim(struct master *m);
/* Puts the replacement in its place, if it accepts. Returns whether none is under way any more. */
bool slots_replace(struct master *m, unsigned slot);
int64_t slots_next_ns(const struct master *m);

/* --- services.c --- */
/* Gives services that nobody runs to workers. */
void services_tick(struct master *m);
/* The next look, while another master's workers may still run them; 0 = none. */
/* The worker does not run its service id any more. is_over: nor is another to run it. */
void services_said(struct master *m, struct child *c, int32_t id, bool is_over);
/* It has died. */
void services_freed(struct master *m, struct child *c);
void services_fini(struct master *m);
/* The one that has this name, or NULL. */
const struct service *services_find(const struct master *m, const char *name);

/* --- recycle.c --- */
/* Asks for the replacement of workers that are too old or too large. */
void recycle_tick(struct master *m, int64_t now_ns);
int64_t recycle_next_ns(const struct master *m);

/* --- watchdog.c --- */
/* Kills workers whose loops stand still. */
void watchdog_tick(struct master *m, int64_t now_ns);
/* Why a worker does not answer that should: what keeps it, as far as its heartbeat tells. */
void watchdog_explain(const struct child *c, char *to, size_t size);
int64_t watchdog_next_ns(const struct master *m);

/* --- coverage.c --- */
/* Tells every ready worker what changed in what it should accept from. */
void coverage_update(struct master *m);
/* Closes the sockets that leave, once their queues are empty. */
void coverage_tick(struct master *m, int64_t now_ns);

/* --- reload.c --- */
/* why: for the log, a literal. */
void reload_request(struct master *m, const char *why);
/* Files have changed. */
void reload_changed(struct master *m);
/* The replacement in slot 0 is ready while RELOAD_TRYING: makes the change. Returns 0, or -1
 * when it was given up. */
int reload_commit(struct master *m, struct child *c);
void reload_failed(struct master *m, unsigned slot, const char *why);
/* Goes on with the next slot. */
void reload_tick(struct master *m);
void reload_abort(struct master *m);

/* --- certs.c --- */
/* Reads what the generation's configuration names. Returns 0 or -EXIT_CODE_SYSTEM, printed. */
int certs_load(struct master *m, struct generation *g);
/* Tickets of the master whose place this one takes stay good. */
void certs_adopt(struct master *m);
/* m->now is another one. */
void certs_begin(struct master *m);
void certs_tick(struct master *m, int64_t now_ns);
int64_t certs_next_ns(const struct master *m);
void certs_fini(struct master *m);

/* --- stop.c --- */
/* by: the signal, or 0 for an error; then code is the exit code. */
void stop_request(struct master *m, int by, int code);
void stop_tick(struct master *m, int64_t now_ns);
int64_t stop_next_ns(const struct master *m);

/* --- pulse.c --- */
enum { PULSE_SILENT_MS = 10 * 1000 }; /* what Kubernetes has between two probes */
/* Asks every ready worker that has answered the last time. */
void pulse_ask(struct master *m);
/* The server lives. */
bool pulse_is_there(const struct master *m, int64_t now_ns);

/* Workers leave because another master serves. */
void stop_hand_over(struct master *m);

/* --- upgrade.c --- */
/* At the very start: whether this program takes another one's place. Returns 0 or -EXIT_CODE_SYSTEM, printed. */
int upgrade_open(struct master *m);
/* SIGUSR2. */
void upgrade_request(struct master *m);
void upgrade_tick(struct master *m, int64_t now_ns);
int64_t upgrade_next_ns(const struct master *m);
/* The channel has something. */
void upgrade_read(struct master *m);
/* A child that is no worker ended. */
void upgrade_reaped(struct master *m, pid_t pid, int status);
/* This master is told to end, by the signal; 0 = by an error. */
void upgrade_abort(struct master *m, int by);
static inline bool
upgrade_is_taking(const struct master *m)
{
    return m->upgrade.state >= UPGRADE_TAKING;
}
/* Whether the master whose place this one takes, or has taken, is still there: its workers may
 * accept, and run services. It is this one's parent until it ends, and its end wakes this one. */
bool upgrade_is_beside(const struct master *m);
/* How many workers it should have that takes over: as many as the other one unless its `workers` is another. */
unsigned upgrade_wanted(const struct master *m);
/* At the end. */
void upgrade_fini(struct master *m);

/* --- notify.c --- */
/* Of the environment, which loses the variables. Cannot fail: what goes wrong is logged. */
void notify_open(struct notify *n);
/* In a forked child too. */
void notify_close(struct notify *n);
/* In a child that becomes the next master: the variables as they were. */
void notify_export(const struct notify *n);
/* The process that the service manager is to watch from now on. */
void notify_main_pid(struct notify *n, pid_t pid);
/* A reload begins; its end, like everything else, is seen by notify_tick(). */
void notify_reloading(struct master *m);
void notify_tick(struct master *m, int64_t now_ns);
int64_t notify_next_ns(const struct master *m);

/* --- health.c --- */
/* Opens, keeps or closes the address as m->now.conf says. Returns 0, or -EXIT_CODE_SYSTEM, printed, with everything as it was. */
int health_apply(struct master *m);
/* What came in, and what is due. */
void health_turn(struct master *m);
/* To be polled for POLLIN, or -1. */
int health_fd(const struct master *m);
int64_t health_next_ns(const struct master *m);
void health_free(struct health *h);
/* For a master that takes over: the address; then nobody new is accepted here. NULL is fine. */
void health_write(const struct health *h, FILE *out);
void health_pass(const struct health *h);
void health_lend(struct health *h);
/* In a forked child: closes descriptors, no more. NULL is fine, here and above. */
void health_forget(struct health *h);

/* --- ctl.c; ctl.h has the commands --- */
/* Opens, keeps or closes the socket as m->now.conf says. Returns 0, or -EXIT_CODE_SYSTEM, printed, with everything as it was. */
int ctl_apply(struct master *m);
/* As health_write(), health_pass() and health_lend(). */
void ctl_write(const struct ctl *ctl, FILE *out);
void ctl_pass(const struct ctl *ctl);
void ctl_lend(struct ctl *ctl);
/* A worker's answers are listened for, and no more. */
void ctl_watch(struct master *m, struct child *c);
void ctl_unwatch(struct master *m, struct child *c);
/* Reads what a worker has answered. */
void ctl_heard(struct master *m, struct child *c);
/* At the begin of a turn of the master's loop: what came in. At its end: commands that may be over now. */
void ctl_turn(struct master *m);
void ctl_flush(struct master *m);
/* To be polled for POLLIN, or -1. */
int ctl_fd(const struct master *m);
int64_t ctl_next_ns(const struct master *m);
void ctl_free(struct ctl *ctl);
/* In a forked child: closes descriptors, no more. */
void ctl_forget(const struct master *m);

/* --- signals.c --- */
/* Blocks the signals that are ours and opens a descriptor for them. Returns it, or -errno. */
int signals_open(void);
void signals_read(struct master *m);
/* Log files, here and in the workers. who: wants it, for the log. */
void reopen_logs(struct master *m, const char *who);
/* In a forked child: as a fresh process has them. */
void signals_reset(void);

/* The sooner of two times, where 0 is none. */
static inline int64_t
sooner(int64_t a, int64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

#endif

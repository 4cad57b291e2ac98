/* master.h: the process that owns the listening sockets and keeps the workers alive. It never runs
 * Python.
 *
 *   master.c      start, the loop, the end         signals.c   which signal means what
 *   child.c       one worker, seen from here       slots.c     deaths, restarts, back-off, how many
 *   coverage.c    who accepts from which socket    reload.c    SIGHUP
 *   recycle.c     workers too old, too large      watchdog.c loops that stand still
 *   stop.c        the ways to end                  sockets.h   sockets: tcp.c uds.c inherited.c
 *   certs.c       certificates, keys, tickets      upgrade.c  SIGUSR2: another program takes over
 *                                                 handover.h  what it is told      lent.c  and given
 *   check.c       --check-config                   health.c    health.bind
 *   ask.c         --healthcheck                    pulse.c     whose loop turns
 *   notify.c      sd_notify                        watch.h     files that change: reload.enabled
 *   ctl.h         control.socket: ctl.c ctl_commands.c ctl_ask.c
 *   services.c    services of which there is one: who runs them
 *   events.h      events.command, events.webhook: events.c webhook.c
 *   state.h       what these files share
 *   logs.c  pidfile.c  privileges.c  nofile.c
 *
 * Slots. The workers stand in slots 0..N-1. A TCP address has one SO_REUSEPORT socket a slot, which
 * the master keeps over the death of the slot's worker: connections in its queue wait for someone
 * instead of being reset. Unix sockets, fd:// and systemd's are one socket for all; so is TCP with
 * reuse_port off. A socket is made to listen when the first worker of its slot is ready.
 *
 * Coverage. One rule, applied after every change (coverage.c): a ready worker accepts from the
 * shared sockets, from those of its own slot, and from those of every slot in which nobody accepts.
 * So siblings take over when a worker dies, and give back when its successor says
 * CONTROL_LISTENING. A slot that was given up (SIGTTOU, fewer workers after a reload) is never
 * covered again, so its sockets stay open and the others accept from them: closing one would reset
 * what is in its queue or in a handshake.
 *
 * A worker:   BOOTING -> READY -> LEAVING -> gone     READY: it said so, and is told its sockets
 *                 \________\_________\-> DUMPING -> KILLED -> gone
 *                                        a deadline passed: SIGUSR2 and stacks, 200 ms, SIGKILL
 *
 * Restarts. A worker that had been ready is replaced at once; one that died before is replaced
 * after 100 ms, doubled to 5 s, and five such deaths of a slot in a row end the server (exit code
 * 3). When nobody was ever ready and a worker says by its exit code that the application or the
 * machine is at fault, there is no second try.
 *
 * Reload (SIGHUP). The configuration is read again, what it binds is opened, and slot 0 gets a
 * second worker. Until that one is ready nothing has changed, and any error leaves everything as it
 * was. Then the change is made, sockets that are not wanted any more are emptied (tcp_drop_syns)
 * and closed, and slot after slot the new worker comes before the old one leaves.
 *
 * Another program (SIGUSR2). It is started as a child with all sockets and boots its workers beside
 * ours, on the same sockets; once all of them accept it takes over and ours drain (upgrade.c).
 *
 * Signals: TERM graceful; INT, QUIT quick; a second one of these at once; HUP reload; TTIN, TTOU
 * one worker more or less; WINCH none; USR1 reopens the log files; USR2 another program. The master keeps the user it was started
 * as; workers drop to `user` and `group`. */
#ifndef RINGCORN_MASTER_H
#define RINGCORN_MASTER_H

#include "conf/conf.h"

struct master_args {
    struct conf *conf; /* the master's from here on */
    int argc;          /* for loading the configuration again, and for the workers */
    char **argv;
    const char *exe; /* path of this program */
};

/* Runs the server to its end. Call it with one thread. Returns the exit code of the program. */
int master_run(const struct master_args *args);

/* Tries the files of TLS, then imports the application (if one is named) in a child process, which prints what it finds. Opens no socket. Leaves args->conf alone. Returns the exit
 * code of the program: that of a start that fails where this one would. */
int master_check(const struct master_args *args);

/* For --check-config: what the configuration means on this machine, a line each. */
void master_explain(const struct conf *conf, FILE *out);

/* Asks the server that runs with this configuration for its health and prints the answer. Returns EXIT_CODE_OK or
 * EXIT_CODE_SYSTEM. */
int master_ask(const struct conf *conf);

#endif

/* master.c: the start, the loop and the end of the master. */
#include "master.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/base.h"
#include "nofile.h"
#include "pidfile.h"
#include "state.h"

enum {
    LEAVING_LOOK_MS = 50, /* how often sockets that leave are looked at */
    FIXED_POLLS = 5,      /* descriptors beside the workers' */
};

/* The counters of the program that this one takes the place of go on. */
static int
open_metrics(struct master *m)
{
    int *lent = &m->upgrade.handover.metrics_fd;
    if (*lent >= 0 && (m->metrics = metrics_adopt(*lent)) != NULL)
        m->metrics_fd = fd_take(lent);
    else
        m->metrics = metrics_new(&m->metrics_fd);
    if (m->metrics != NULL)
        return 0;
    log_operator("cannot start: out of memory or descriptors");
    return -EXIT_CODE_SYSTEM;
}

/* Everything up to the first fork. Returns 0 or the negative exit code; the reason is printed. */
static int
open_all(struct master *m)
{
    struct conf *conf = m->now.conf;
    m->signal_fd = signals_open();
    if (m->signal_fd < 0) {
        log_operator("cannot start: signalfd: %s", strerror(-m->signal_fd));
        return -EXIT_CODE_SYSTEM;
    }
    if (upgrade_open(m) < 0 || open_metrics(m) < 0)
        return -EXIT_CODE_SYSTEM;
    nofile_fit(conf);
    if (conf->name != NULL)
        (void)prctl(PR_SET_NAME, conf->name);
    if (privileges_find(conf, &m->now.privileges) < 0 || logs_check(conf) < 0 ||
        certs_load(m, &m->now) < 0)
        return -EXIT_CODE_SYSTEM;
    certs_adopt(m);
    struct sockets_change change;
    if (sockets_prepare(&m->sockets, conf, conf->workers, &change) < 0)
        return -EXIT_CODE_SYSTEM;
    sockets_commit(&m->sockets, &change);
    notify_open(&m->notify);
    if (conf->reload_enabled)
        m->watch = watch_open(conf);
    m->wanted = upgrade_is_taking(m) ? upgrade_wanted(m) : conf->workers;
    /* The pid file names the other master until this one has taken over. */
    bool is_mine = !upgrade_is_taking(m);
    pid_t from = m->upgrade.handover.from;
    if (health_apply(m) < 0 || ctl_apply(m) < 0 ||
        (is_mine ? pidfile_write(conf->pid_file, 0) : pidfile_check(conf->pid_file, from)) < 0 ||
        slots_grow(m, m->wanted) < 0 || logs_open(&m->logs, conf) < 0)
        return -EXIT_CODE_SYSTEM;
    m->oom_kills = conf_oom_kills();
    events_open(m);
    certs_begin(m);
    return 0;
}

/* When the loop has to look again though nothing happens; 0 = not before something does. */
static int64_t
next_ns(const struct master *m)
{
    int64_t next = sooner(certs_next_ns(m), sooner(slots_next_ns(m), stop_next_ns(m)));
    next = sooner(next, health_next_ns(m));
    next = sooner(next, notify_next_ns(m));
    next = sooner(next, ctl_next_ns(m));
    next = sooner(next, upgrade_next_ns(m));
    next = sooner(next, events_next_ns(m));
    next = sooner(next, sooner(recycle_next_ns(m), watchdog_next_ns(m)));
    next = sooner(next, watch_next_ns(m->watch));
    next = sooner(next, preload_next_ns(m));
    CHILDREN_EACH(c, m)
        next = sooner(next, c->deadline_ns);
    if (!list_is_empty(&m->sockets.leaving))
        next = sooner(next, clock_ns() + LEAVING_LOOK_MS * NS_PER_MS);
    return next;
}

static int
timeout_ms(const struct master *m)
{
    int64_t at = next_ns(m);
    if (at == 0)
        return -1;
    int64_t left_ms = (at - clock_ns() + NS_PER_MS - 1) / NS_PER_MS;
    return left_ms < 0 ? 0 : left_ms > 60 * 1000 ? 60 * 1000 : (int)left_ms;
}

/* What a worker says that `preload` has forked waits until preload.c has heard of its pid. */
static bool
is_heard(const struct child *c)
{
    return c->control >= 0 && c->pid > 0;
}

/* Waits, and reads what workers and signals say. */
static int
wait_once(struct master *m, struct pollfd **polls, size_t *polls_cap)
{
    size_t n = FIXED_POLLS;
    CHILDREN_EACH(c, m)
        n += is_heard(c);
    PRELOADS_EACH(one, m)
        n += one->control >= 0;
    if (n > *polls_cap) {
        struct pollfd *more = realloc(*polls, 2 * n * sizeof(*more));
        if (more == NULL)
            return -ENOMEM;
        *polls = more;
        *polls_cap = 2 * n;
    }
    struct pollfd *p = *polls;
    p[0] = (struct pollfd){ .fd = m->signal_fd, .events = POLLIN };
    p[1] = (struct pollfd){ .fd = health_fd(m), .events = POLLIN }; /* poll() passes over -1 */
    p[2] = (struct pollfd){ .fd = watch_fd(m->watch), .events = POLLIN };
    p[3] = (struct pollfd){ .fd = m->upgrade.channel, .events = POLLIN };
    p[4] = (struct pollfd){ .fd = ctl_fd(m), .events = POLLIN };
    n = FIXED_POLLS;
    CHILDREN_EACH(c, m)
        if (is_heard(c))
            p[n++] = (struct pollfd){ .fd = c->control, .events = POLLIN };
    PRELOADS_EACH(one, m)
        if (one->control >= 0)
            p[n++] = (struct pollfd){ .fd = one->control, .events = POLLIN };
    if (poll(p, n, timeout_ms(m)) < 0)
        return errno == EINTR ? 0 : -errno;
    /* Workers first: what one said before it died is heard before its death is. New ones are
     * appended to the list. */
    size_t i = FIXED_POLLS;
    CHILDREN_EACH(c, m) {
        if (i >= n)
            break;
        if (!is_heard(c) || c->control != p[i].fd)
            continue;
        if (p[i++].revents != 0)
            child_read(m, c);
    }
    preload_read(m);
    if (p[3].revents != 0 && m->upgrade.channel >= 0)
        upgrade_read(m);
    signals_read(m);
    return 0;
}

static int
run(struct master *m)
{
    MEM_OWNED struct pollfd *polls = NULL;
    size_t polls_cap = 0;
    while (m->stop.state != STOP_LEAVING || !list_is_empty(&m->children) ||
           !list_is_empty(&m->preloads)) {
        ctl_turn(m);
        int64_t now_ns = clock_ns();
        CHILDREN_EACH(c, m)
            child_tick(m, c, now_ns);
        if (watch_tick(m->watch, now_ns))
            reload_changed(m);
        watchdog_tick(m, now_ns);
        recycle_tick(m, now_ns);
        slots_tick(m, now_ns);
        preload_tick(m, now_ns);
        coverage_tick(m, now_ns);
        stop_tick(m, now_ns);
        certs_tick(m, now_ns);
        coverage_update(m);
        upgrade_tick(m, now_ns);
        reload_tick(m);
        services_tick(m);
        events_tick(m, now_ns);
        if (!upgrade_is_taking(m) &&
            !m->stop.is_handed_over) { /* of two masters, the one that serves */
            metrics_set(&m->metrics->master.wanted, m->wanted);
            metrics_set(&m->metrics->master.generation, m->now.number);
        }
        health_turn(m);
        notify_tick(m, now_ns);
        ctl_flush(m);
        int err = wait_once(m, &polls, &polls_cap);
        if (err < 0) {
            log_error("the master cannot go on: %s", strerror(-err));
            return EXIT_CODE_SYSTEM; /* workers see the end of their control streams: they drain */
        }
    }
    return m->exit_code;
}

int
master_run(const struct master_args *args)
{
    struct master m = {
        .args = args,
        .now = { .number = 1, .conf = args->conf },
        .generations = 1,
        .signal_fd = -1,
        .certs = { .fd = -1 },
        .notify = { .fd = -1 },
        .begun_ns = clock_ns(),
        .metrics_fd = -1,
        .upgrade = { .channel = -1, .handover = { .metrics_fd = -1 } },
    };
    list_init(&m.children);
    list_init(&m.preloads);
    list_init(&m.ctl_jobs);
    sockets_init(&m.sockets);
    logs_init(&m.logs);
    list_init(&m.upgrade.handover.app);
    list_init(&m.upgrade.handover.health);
    list_init(&m.upgrade.handover.control);
    int code = -open_all(&m);
    if (code == EXIT_CODE_OK) {
        code = run(&m);
        if (code == EXIT_CODE_OK)
            log_info("stopped");
    }
    events_close(&m);
    watch_close(m.watch);
    notify_close(&m.notify);
    health_free(m.health);
    advise_free(&m);
    ctl_free(m.ctl);
    m.ctl = NULL; /* children are freed below */
    sockets_fini(&m.sockets);
    pidfile_remove(m.now.conf->pid_file);
    while (!list_is_empty(&m.children))
        child_free(&m, CONTAINER_OF(m.children.next, struct child, node));
    upgrade_fini(&m);
    services_fini(&m);
    generation_fini(&m.now);
    certs_fini(&m);
    logs_fini(&m.logs);
    free(m.slots);
    metrics_free(m.metrics);
    if (m.metrics_fd >= 0)
        close(m.metrics_fd);
    if (m.signal_fd >= 0)
        close(m.signal_fd);
    return code;
}

/* reload.c: SIGHUP. The order of steps is the point: everything that can fail comes before
 * anything changes, and a new worker accepts connections before the old one stops to. Signals
 * that come during a reload make one more when it is done. */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "nofile.h"
#include "pidfile.h"
#include "state.h"

void
generation_fini(struct generation *g)
{
    tls_set_free(g->tls);
    g->tls = NULL;
    privileges_fini(&g->privileges);
    conf_free(g->conf);
    g->conf = NULL;
}

static bool
is_same_path(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* Reads and opens what the new configuration asks for. Returns 0, or -1 with nothing left open;
 * errors are printed. */
static int
prepare(struct master *m)
{
    struct reload *r = &m->reload;
    struct generation g = { .number = m->generations + 1 };
    enum conf_action action;
    if (conf_load(m->args->argc, m->args->argv, &action, &g.conf) < 0)
        return -1;
    unsigned slots = g.conf->workers > m->slots_n ? g.conf->workers : m->slots_n;
    nofile_fit(g.conf);
    if (logs_check(g.conf) < 0 || privileges_find(g.conf, &g.privileges) < 0 ||
        certs_load(m, &g) < 0 || slots_grow(m, slots) < 0)
        goto failed;
    if (sockets_prepare(&m->sockets, g.conf, slots, &r->change) < 0)
        goto failed;
    r->is_pid_file_new = !is_same_path(g.conf->pid_file, m->now.conf->pid_file);
    if (r->is_pid_file_new && pidfile_write(g.conf->pid_file, 0) < 0) {
        sockets_abort(&r->change);
        goto failed;
    }
    m->generations = g.number;
    r->next = g;
    return 0;
failed:
    generation_fini(&g);
    return -1;
}

static void
end(struct reload *r, enum reload_end how)
{
    r->state = RELOAD_NONE;
    r->ended = r->begun;
    r->how = how;
}

static void
begin(struct master *m)
{
    struct reload *r = &m->reload;
    r->is_wanted_again = false;
    r->begun++;
    r->started_ns = clock_ns();
    log_info("%s: reloading", r->why);
    notify_reloading(m);
    if (prepare(m) < 0) {
        end(r, RELOAD_FAILED);
        metrics_add(&m->metrics->master.reloads_failed, 1);
        events_note(m, EVENT_RELOAD_FAILED, NULL, EVENT_DETAILS({ "asked_by", .text = r->why }),
                    "reload: the new configuration cannot be used, the log says why; the old one "
                    "and its workers stay");
        log_error("reload: the new configuration cannot be used, see above; the old one and its "
                  "workers stay");
        return;
    }
    r->state = RELOAD_TRYING;
    if (child_start(m, 0, &r->next, &m->slots[0].next) < 0)
        reload_failed(m, 0, "it could not be started");
    else
        child_count_restart(m, 0, METRICS_RESTART_RELOAD);
}

void
reload_abort(struct master *m)
{
    struct reload *r = &m->reload;
    if (r->state == RELOAD_TRYING) {
        sockets_abort(&r->change);
        if (r->is_pid_file_new)
            pidfile_remove(r->next.conf->pid_file);
        generation_fini(&r->next);
    }
    if (r->state != RELOAD_NONE)
        end(r, RELOAD_FAILED);
    r->is_wanted_again = false;
}

void
reload_failed(struct master *m, unsigned slot, const char *why)
{
    struct reload *r = &m->reload;
    if (r->state == RELOAD_TRYING || r->state == RELOAD_REPLACING)
        events_note(
            m, EVENT_RELOAD_FAILED, NULL,
            EVENT_DETAILS({ "asked_by", .text = r->why }, { "worker", .n = slot }),
            "reload: the new worker %u did not start (%s), the log says why; the old %s", slot, why,
            r->state == RELOAD_TRYING ? "workers and their configuration stay" : "one stays");
    if (r->state == RELOAD_TRYING) {
        bool again = r->is_wanted_again;
        metrics_add(&m->metrics->master.reloads_failed, 1);
        reload_abort(m);
        r->is_wanted_again = again;
        log_error("reload: the new worker did not start (%s); the old workers and their "
                  "configuration stay",
                  why);
    } else if (r->state == RELOAD_REPLACING) {
        m->slots[slot].is_stuck = true;
        log_error("reload: the new worker %u did not start (%s); the old one stays; send SIGHUP to "
                  "try again",
                  slot, why);
    }
}

int
reload_commit(struct master *m, struct child *c)
{
    struct reload *r = &m->reload;
    if (sockets_change_listen(&m->sockets, &r->change, c->slot) < 0) {
        m->slots[c->slot].next = NULL;
        child_leave(m, c, CONTROL_QUIT);
        reload_failed(m, c->slot, "its addresses cannot be used, see above");
        return -1;
    }
    sockets_commit(&m->sockets, &r->change);
    if (r->is_pid_file_new)
        pidfile_remove(m->now.conf->pid_file);
    unsigned wanted = slots_wanted_by(m, r->next.conf);
    watch_close(m->watch); /* it borrows from what goes */
    generation_fini(&m->now);
    m->now = r->next;
    r->next = (struct generation){ 0 };
    m->watch = m->now.conf->reload_enabled ? watch_open(m->now.conf) : NULL;
    (void)logs_open(&m->logs, m->now.conf);
    certs_begin(m);
    c->certs = m->certs.version;
    (void)health_apply(m); /* printed; what there was stays */
    (void)ctl_apply(m);
    m->wanted = wanted;
    for (unsigned i = 0; i < m->slots_n; i++) {
        m->slots[i].failures = 0;
        m->slots[i].is_stuck = false;
    }
    r->state = RELOAD_REPLACING;
    return 0;
}

/* Replaces what is old in one slot. Returns whether the slot is done. */
static bool
replace(struct master *m, unsigned i)
{
    struct slot *slot = &m->slots[i];
    if (slot->next != NULL)
        return slots_replace(m, i);
    if (slot->current == NULL || slot->is_stuck)
        return true; /* dead: the next one comes with the new configuration anyway */
    /* One after the other, so that most of them serve. */
    if (slot->current->generation == m->now.number)
        return slot->current->state != CHILD_BOOTING;
    if (child_start(m, i, &m->now, &slot->next) < 0) {
        reload_failed(m, i, "it could not be started");
        return true;
    }
    child_count_restart(m, i, METRICS_RESTART_RELOAD);
    return false;
}

static unsigned
count_leaving(const struct master *m)
{
    unsigned n = 0;
    CHILDREN_EACH(c, m)
        n += c->state == CHILD_LEAVING;
    return n;
}

void
reload_tick(struct master *m)
{
    struct reload *r = &m->reload;
    if (m->stop.state != STOP_NONE)
        return;
    if (r->state == RELOAD_REPLACING) {
        unsigned stuck = 0;
        for (unsigned i = 0; i < m->wanted; i++) {
            if (!replace(m, i))
                return;
            stuck += m->slots[i].is_stuck;
        }
        end(r, stuck == 0 ? RELOAD_DONE : RELOAD_STUCK);
        slots_trim(m);
        metrics_add(stuck == 0 ? &m->metrics->master.reloads : &m->metrics->master.reloads_failed,
                    1);
        if (stuck == 0)
            log_info("reloaded in %.2f s", (double)(clock_ns() - r->started_ns) / NS_PER_S);
    }
    /* Workers with long requests take their time to leave; impatient signals must not pile up
     * generations of them. */
    bool is_room = m->now.conf->timeout_graceful_ms == 0 || count_leaving(m) <= 2 * m->wanted;
    /* A worker that asked to be replaced is served first, and so is another program. */
    bool is_free = m->slots[0].next == NULL && m->upgrade.state == UPGRADE_NONE;
    if (r->state == RELOAD_NONE && r->is_wanted_again && is_room && is_free)
        begin(m);
}

void
reload_request(struct master *m, const char *why)
{
    if (m->stop.state != STOP_NONE)
        return;
    m->reload.why = why;
    m->reload.is_wanted_again = true; /* reload_tick() begins */
}

void
reload_changed(struct master *m)
{
    if (!m->waits) {
        reload_request(m, "files have changed");
        return;
    }
    m->waits = false; /* slots_tick() starts what is missing */
    log_info("files have changed: next try");
}

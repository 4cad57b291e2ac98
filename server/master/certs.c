/* certs.c: the master's part of TLS: it reads certificates and keys, being the one who may, makes
 * the keys of session tickets, and looks whether the files have changed. Changed ones are tried here
 * first; then every worker of this configuration is handed what they hold. Files that cannot be used
 * change nothing, and are tried again when they change again. */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "state.h"

enum {
    SETTLE_MS =
        500, /* changed files are taken once they are the same for so long: a certificate and
                        its key are not replaced at once */
    DATES_S = 24 * 3600,
    RETRY_MS = 100, /* to hand it to a worker whose queue is full */
};

int
certs_load(struct master *m, struct generation *g)
{
    const struct conf *conf = g->conf;
    if (conf->tls_cert.n == 0)
        return 0;
    tls_memory_prepare();
    bool has_tickets = conf->tls_ticket_rotation_ms > 0;
    if (has_tickets && m->certs.tickets == NULL && (m->certs.tickets = tls_tickets_new()) == NULL) {
        log_operator("tls.ticket_rotation: no memory for the keys of tickets");
        return -EXIT_CODE_SYSTEM;
    }
    g->tls_stamp = tls_files_stamp(conf); /* first: what changes while it is read is seen later */
    if (tls_load(conf, has_tickets ? m->certs.tickets : NULL, log_operator, &g->tls, NULL) < 0)
        return -EXIT_CODE_SYSTEM;
    return 0;
}

void
certs_adopt(struct master *m)
{
    const struct handover *h = &m->upgrade.handover;
    if (!h->has_tickets || m->certs.tickets == NULL)
        return;
    tls_tickets_restore(m->certs.tickets, h->tickets);
    m->certs.rotate_ns = h->rotate_ns;
}

/* events.certificate_days: whether a certificate ends soon. Once a day, and whenever there are others. */
static void
look_at_dates(struct master *m, int64_t now_ns)
{
    const struct conf *conf = m->now.conf;
    int64_t days = conf->events_certificate_days, now_s = time(NULL), ends_s;
    size_t index;
    m->certs.dates_ns = m->now.tls != NULL && days > 0 ? now_ns + DATES_S * NS_PER_S : 0;
    if (m->certs.dates_ns == 0)
        return;
    size_t n = tls_set_ending(m->now.tls, now_s + days * DATES_S, &index, &ends_s);
    if (n == 0)
        return;
    char date[32];
    struct tm tm;
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&(time_t){ ends_s }, &tm));
    const char *path = conf->tls_cert.v[index];
    bool is_over = ends_s <= now_s;
    int64_t days_left = is_over ? 0 : (ends_s - now_s) / DATES_S;
    if (!is_over) /* else it was said when it was loaded */
        log_warning("tls.cert: the certificate in %s ends on %s, in %lld days: renew it", path,
                    date, (long long)days_left);
    events_note(m, EVENT_CERTIFICATE, NULL,
                EVENT_DETAILS({ "file", .text = path }, { "ends", .text = date },
                              { "days_left", .n = days_left }, { "certificates", .n = (int64_t)n }),
                "the certificate in %s %s on %s%s", path, is_over ? "has ended" : "ends", date,
                n > 1 ? "; so do others of tls.cert, at that time or soon after" : "");
}

void
certs_begin(struct master *m)
{
    struct certs *k = &m->certs;
    const struct conf *conf = m->now.conf;
    int64_t now_ns = clock_ns();
    bool is_tls = m->now.tls != NULL;
    k->seen_stamp = m->now.tls_stamp;
    k->look_ns = is_tls && conf->tls_watch_ms > 0 ? now_ns + conf->tls_watch_ms * NS_PER_MS : 0;
    int64_t every_ns = conf->tls_ticket_rotation_ms * NS_PER_MS;
    if (!is_tls || every_ns == 0)
        k->rotate_ns = 0;
    else if (k->rotate_ns == 0 || k->rotate_ns > now_ns + every_ns)
        k->rotate_ns = now_ns + every_ns; /* reloads do not put it off */
    look_at_dates(m, now_ns);
    k->version++;
    PRELOADS_EACH(p, m)
        if (p->generation == m->now.number)
            p->certs = k->version; /* it was forked with them */
    if (k->fd >= 0)                /* it was for workers of the configuration before */
        close(fd_take(&k->fd));
}

static bool
is_concerned(const struct master *m, const struct child *c)
{
    return c->generation == m->now.number && c->control >= 0 && c->certs != m->certs.version &&
           (c->state == CHILD_BOOTING || c->state == CHILD_READY);
}

/* Gives k->fd to whoever has not got it. */
static void
hand_over(struct master *m, int64_t now_ns)
{
    struct certs *k = &m->certs;
    bool is_one_left = false;
    CHILDREN_EACH(c, m) {
        if (!is_concerned(m, c))
            continue;
        if (control_send(c->control, CONTROL_CERTS, 0, k->fd) == 0)
            c->certs = k->version;
        else
            is_one_left = true;
    }
    PRELOADS_EACH(p, m) { /* for the workers that it forks from now on */
        if (p->generation != m->now.number || p->control < 0 || p->certs == k->version)
            continue;
        if (control_send(p->control, CONTROL_CERTS, 0, k->fd) == 0)
            p->certs = k->version;
        else
            is_one_left = true;
    }
    k->retry_ns = is_one_left ? now_ns + RETRY_MS * NS_PER_MS : 0;
    if (!is_one_left)
        close(fd_take(&k->fd));
}

static void
replace(struct master *m, int64_t now_ns)
{
    struct certs *k = &m->certs;
    const struct conf *conf = m->now.conf;
    struct tls_files files;
    struct tls_set *set;
    struct tls_tickets *tickets = conf->tls_ticket_rotation_ms > 0 ? k->tickets : NULL;
    if (tls_load(conf, tickets, tls_say_error, &set, &files) < 0) {
        log_error(
            "tls: files have changed and cannot be used, see above; the old certificates stay");
        return;
    }
    int fd = tls_files_pack(&files);
    tls_files_free(&files);
    if (fd < 0) {
        log_error("tls: changed files cannot be handed to the workers (%s); send SIGHUP",
                  strerror(-fd));
        tls_set_free(set);
        return;
    }
    tls_set_free(m->now.tls);
    m->now.tls = set;
    if (k->fd >= 0)
        close(k->fd);
    k->fd = fd;
    k->version++;
    hand_over(m, now_ns);
    look_at_dates(m, now_ns);
    log_info("tls: files have changed; new connections get the certificate now in %s",
             conf->tls_cert.v[0]);
}

static void
look(struct master *m, int64_t now_ns)
{
    struct certs *k = &m->certs;
    int64_t wait_ms = m->now.conf->tls_watch_ms;
    uint64_t stamp = tls_files_stamp(m->now.conf);
    if (stamp != m->now.tls_stamp && stamp == k->seen_stamp) {
        m->now.tls_stamp = stamp;
        replace(m, now_ns);
    } else if (stamp != m->now.tls_stamp && wait_ms > SETTLE_MS) {
        wait_ms = SETTLE_MS;
    }
    k->seen_stamp = stamp;
    k->look_ns = now_ns + wait_ms * NS_PER_MS;
}

void
certs_tick(struct master *m, int64_t now_ns)
{
    struct certs *k = &m->certs;
    if (k->rotate_ns != 0 && k->rotate_ns <= now_ns) {
        if (tls_tickets_rotate(k->tickets) < 0)
            log_error("tls: no randomness for another key of session tickets; the old one stays");
        k->rotate_ns = now_ns + m->now.conf->tls_ticket_rotation_ms * NS_PER_MS;
    }
    if (k->look_ns != 0 && k->look_ns <= now_ns)
        look(m, now_ns);
    if (k->dates_ns != 0 && k->dates_ns <= now_ns)
        look_at_dates(m, now_ns);
    if (k->retry_ns != 0 && k->retry_ns <= now_ns)
        hand_over(m, now_ns);
}

int64_t
certs_next_ns(const struct master *m)
{
    return sooner(sooner(m->certs.dates_ns, m->certs.retry_ns),
                  sooner(m->certs.rotate_ns, m->certs.look_ns));
}

void
certs_fini(struct master *m)
{
    if (m->certs.fd >= 0)
        close(fd_take(&m->certs.fd));
    tls_tickets_free(m->certs.tickets);
    m->certs.tickets = NULL;
}

/* ctl.c: the control socket: who speaks on it, line by line. Leaves to others: what the commands mean (ctl_commands.c).
 * A descriptor of its own (epoll) stands for all of them in the master's poll().
 * Owns:  the socket, its clients. */
#include "ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "base/json.h"
#include "state.h"

enum {
    CLIENTS_MAX = 32,
    LINE_MAX_BYTES = 64 * 1024,
    OUT_MAX_BYTES = 1024 * 1024, /* a client that does not read is asked no more questions */
    EVENTS_MAX = 64,
    TAKE_MS = 10 * 1000, /* a client that takes no byte of its answers for so long is sent away */
    PAUSE_MS = 100,      /* of accepting, when there is no descriptor or memory for a client */
};

struct client {
    struct list node;
    struct ctl_source source;
    int fd;
    struct buf in, out;
    size_t out_done; /* bytes of out that are written */
    bool is_asking;  /* job is under way; the next line waits */
    bool is_over;    /* sends no more */
    uint32_t events; /* that epoll was told */
    int64_t took_ns; /* when it took something of out last, or out began */
    struct ctl_job job;
};

struct ctl {
    struct conf conf; /* borrows from the configuration in force; with settings of its own */
    struct sockets sockets;
    struct ctl_source source;
    int epoll;
    struct list clients;
    unsigned clients_n;
    int64_t accept_at_ns; /* accepting pauses until then; 0 = it does not */
    bool has_told; /* a command has run in ctl_flush(): what it wants is done in the next turn */
};

/* --- clients ---------------------------------------------------------------------------------- */

static void
client_free(struct ctl *ctl, struct client *c)
{
    if (c->is_asking)
        ctl_abandon(&c->job);
    (void)epoll_ctl(ctl->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    list_del(&c->node);
    buf_free(&c->in);
    buf_free(&c->out);
    buf_free(&c->job.out);
    free(c);
    ctl->clients_n--;
}

static void
answer(struct client *c, bool is_ok, const struct buf *out)
{
    struct json j = json_into(&c->out);
    json_begin(&j, '{');
    json_key(&j, "version"), json_int(&j, CTL_VERSION);
    json_key(&j, "ok"), json_bool(&j, is_ok);
    if (is_ok)
        json_key(&j, "result"), json_raw(&j, (struct slice){ out->p, out->n });
    else
        json_key(&j, "error"), json_text(&j, (struct slice){ out->p, out->n });
    json_end(&j, '}');
    if (j.is_lost || buf_puts(&c->out, "\n") < 0)
        c->is_over = true;
}

static void
on_done(struct master *m, struct ctl_job *job)
{
    (void)m;
    struct client *c = CONTAINER_OF(job, struct client, job);
    c->is_asking = false;
    answer(c, job->is_ok, &job->out);
    buf_free(&job->out);
}

static void
refuse(struct client *c, const char *why)
{
    BUF_OWNED struct buf text = { 0 };
    if (buf_puts(&text, why) == 0)
        answer(c, false, &text);
}

static void
take_line(struct master *m, struct client *c, const char *line, size_t n)
{
    char why[160];
    int64_t version;
    JSON_DOC_OWNED struct json_doc doc = { 0 };
    if (json_doc_parse(&doc, line, n, why, sizeof(why)) < 0) {
        BUF_OWNED struct buf text = { 0 };
        if (buf_printf(&text, "the line is not JSON: %s", why) == 0)
            answer(c, false, &text);
        return;
    }
    struct json_ref root = json_doc_root(&doc);
    const char *command = json_ref_text(json_ref_get(root, "command"));
    if (!json_ref_int(json_ref_get(root, "version"), &version) || version != CTL_VERSION) {
        refuse(c, "a line is an object with \"version\":1; this server knows no other version");
    } else if (command == NULL) {
        refuse(c, "\"command\" is missing; \"help\" lists all");
    } else {
        c->job = (struct ctl_job){ .done = on_done };
        c->is_asking = true;
        m->ctl->has_told = true;
        ctl_do(m, &c->job, command, json_ref_get(root, "arguments"));
    }
}

static void
take_lines(struct master *m, struct client *c)
{
    size_t from = 0;
    while (!c->is_asking && c->out.n - c->out_done < OUT_MAX_BYTES && from < c->in.n) {
        const char *line = c->in.p + from;
        const char *end = memchr(line, '\n', c->in.n - from);
        if (end == NULL)
            break;
        from += (size_t)(end + 1 - line);
        if (end > line)
            take_line(m, c, line, (size_t)(end - line));
    }
    if (from > 0) {
        memmove(c->in.p, c->in.p + from, c->in.n - from);
        c->in.n -= from;
    }
    if (!c->is_asking && c->in.n >= LINE_MAX_BYTES) {
        refuse(c, "the line is too long");
        c->in.n = 0;
        c->is_over = true;
    }
}

/* False: the connection has ended. */
static bool
client_read(struct client *c)
{
    while (!c->is_over && c->in.n < LINE_MAX_BYTES) {
        if (buf_reserve(&c->in, 4096) < 0)
            return false;
        ssize_t n = recv(c->fd, c->in.p + c->in.n, 4096, MSG_DONTWAIT);
        if (n > 0)
            c->in.n += (size_t)n;
        else if (n == 0)
            c->is_over = true;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            return false;
    }
    return true;
}

/* False: the connection has ended. */
static bool
client_write(struct client *c)
{
    int64_t now_ns = clock_ns();
    bool is_taken = false;
    while (c->out_done < c->out.n) {
        ssize_t n = send(c->fd, c->out.p + c->out_done, c->out.n - c->out_done,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            c->out_done += (size_t)n;
            is_taken = true;
        } else if (errno == EAGAIN) {
            break;
        } else if (errno != EINTR) {
            return false;
        }
    }
    if (c->out_done == c->out.n) {
        buf_free(&c->out);
        c->out_done = 0;
        c->took_ns = 0;
        return true;
    }
    if (is_taken || c->took_ns == 0)
        c->took_ns = now_ns;
    if (c->out_done > c->out.n / 2) { /* what is sent leaves, however slowly the rest goes */
        c->out.n -= c->out_done;
        memmove(c->out.p, c->out.p + c->out_done, c->out.n);
        c->out_done = 0;
    }
    if (now_ns - c->took_ns < TAKE_MS * NS_PER_MS)
        return true;
    log_warning("control.socket: a client has not read its answers for %d s, and is sent away",
                TAKE_MS / 1000);
    return false;
}

/* Does what can be done for it. */
static void
client_turn(struct master *m, struct ctl *ctl, struct client *c, uint32_t events)
{
    bool is_there = !(events & EPOLLERR);
    if (is_there && (events & (EPOLLIN | EPOLLHUP)))
        is_there = client_read(c);
    if (is_there)
        take_lines(m, c);
    if (is_there)
        is_there = client_write(c);
    /* With EPOLLHUP nobody is there to read an answer (who has closed one direction only is told by the end of the stream), and epoll would
     * tell it without a pause. */
    bool is_idle = !c->is_asking && c->out.n == 0;
    if (!is_there || (events & EPOLLHUP) || (c->is_over && is_idle)) {
        client_free(ctl, c);
        return;
    }
    uint32_t wanted = (c->out.n > c->out_done ? EPOLLOUT : 0) |
                      (!c->is_over && c->in.n < LINE_MAX_BYTES ? EPOLLIN : 0);
    if (wanted != c->events) {
        struct epoll_event e = { .events = wanted, .data.ptr = &c->source };
        (void)epoll_ctl(ctl->epoll, EPOLL_CTL_MOD, c->fd, &e);
        c->events = wanted;
    }
}

/* Or not: a socket that nobody can be accepted from would wake up the master without a pause. */
static void
listen_on(struct ctl *ctl, bool is_on)
{
    struct epoll_event e = { .events = is_on ? EPOLLIN : 0, .data.ptr = &ctl->source };
    BOUNDS_EACH(b, &ctl->sockets.bounds)
        (void)epoll_ctl(ctl->epoll, EPOLL_CTL_MOD, b->v[0].fd, &e);
    ctl->accept_at_ns = is_on ? 0 : clock_ns() + PAUSE_MS * NS_PER_MS;
}

static void
accept_all(struct ctl *ctl, int listening)
{
    for (;;) {
        FD_OWNED int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
            listen_on(ctl, false);
        if (fd < 0)
            return; /* what else is wrong with it will be told again */
        struct client *c = ctl->clients_n < CLIENTS_MAX ? calloc(1, sizeof(*c)) : NULL;
        if (c == NULL) {
            log_warning("control.socket: more than %d connections, one was refused", CLIENTS_MAX);
            continue;
        }
        c->events = EPOLLIN;
        c->source = (struct ctl_source){ CTL_CLIENT, c };
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = &c->source };
        if (epoll_ctl(ctl->epoll, EPOLL_CTL_ADD, fd, &e) < 0) {
            free(c);
            return;
        }
        c->fd = fd_take(&fd);
        list_add_tail(&ctl->clients, &c->node);
        ctl->clients_n++;
    }
}

/* --- its life ----------------------------------------------------------------------------------- */

static void
borrow(struct ctl *ctl, struct conf *conf)
{
    ctl->conf = *conf;
    ctl->conf.binds = &conf->control_at;
    ctl->conf.binds_n = conf->control_socket != NULL;
    ctl->conf.uds_mode = conf->control_mode;
    ctl->conf.uds_owner = NULL;
}

static struct ctl *
ctl_new(struct conf *conf)
{
    struct ctl *ctl = calloc(1, sizeof(*ctl));
    if (ctl == NULL)
        return NULL;
    ctl->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (ctl->epoll < 0) {
        free(ctl);
        return NULL;
    }
    borrow(ctl, conf);
    ctl->source = (struct ctl_source){ CTL_LISTENER, ctl };
    sockets_init(&ctl->sockets);
    list_init(&ctl->clients);
    return ctl;
}

static void
clients_free(struct ctl *ctl)
{
    while (!list_is_empty(&ctl->clients))
        client_free(ctl, CONTAINER_OF(ctl->clients.next, struct client, node));
}

void
ctl_free(struct ctl *ctl)
{
    if (ctl == NULL)
        return;
    clients_free(ctl);
    sockets_fini(&ctl->sockets);
    close(ctl->epoll);
    free(ctl);
}

void
ctl_forget(const struct master *m)
{
    const struct ctl *ctl = m->ctl;
    LIST_FOR_EACH(node, &m->ctl_jobs)
        ctl_ask_forget(CONTAINER_OF(node, struct ctl_job, node));
    if (ctl == NULL)
        return;
    LIST_FOR_EACH(node, &ctl->clients)
        close(CONTAINER_OF(node, struct client, node)->fd);
    sockets_forget(&ctl->sockets);
    close(ctl->epoll);
}

static void
ctl_close(struct master *m)
{
    CHILDREN_EACH(c, m)
        ctl_unwatch(m, c);
    ctl_free(m->ctl);
    m->ctl = NULL;
}

static bool
listen_again(struct ctl *ctl)
{
    BOUNDS_EACH(b, &ctl->sockets.bounds) {
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = &ctl->source };
        if (epoll_ctl(ctl->epoll, EPOLL_CTL_ADD, b->v[0].fd, &e) < 0 && errno != EEXIST)
            return false;
    }
    return true;
}

void
ctl_write(const struct ctl *ctl, FILE *out)
{
    if (ctl != NULL)
        sockets_write(&ctl->sockets, "control", out);
}

void
ctl_pass(const struct ctl *ctl)
{
    if (ctl != NULL)
        sockets_pass(&ctl->sockets);
}

void
ctl_lend(struct ctl *ctl)
{
    if (ctl == NULL)
        return;
    /* Closing is not enough: epoll would go on watching what the next master has open, too. */
    BOUNDS_EACH(b, &ctl->sockets.bounds)
        (void)epoll_ctl(ctl->epoll, EPOLL_CTL_DEL, b->v[0].fd, NULL);
    sockets_lend(&ctl->sockets);
    sockets_fini(&ctl->sockets);
}

int
ctl_apply(struct master *m)
{
    struct conf *conf = m->now.conf;
    struct ctl *ctl = m->ctl;
    struct sockets_change change;
    if (upgrade_is_taking(m) || (ctl == NULL && !conf_asks_workers(conf)))
        return 0; /* nothing to do, or the other master's */
    if (!conf_asks_workers(conf)) {
        ctl_close(m);
        return 0;
    }
    bool is_new = ctl == NULL;
    if (is_new && (ctl = ctl_new(conf)) == NULL) {
        log_operator("control.socket: out of memory or descriptors");
        return -EXIT_CODE_SYSTEM;
    }
    bool was_answered = !list_is_empty(&ctl->sockets.bounds);
    borrow(ctl, conf);
    sockets_adopt(&ctl->sockets, &m->upgrade.handover.control);
    sockets_own(&ctl->sockets, &ctl->conf);
    if (sockets_prepare(&ctl->sockets, &ctl->conf, 1, &change) < 0 ||
        (sockets_change_listen(&ctl->sockets, &change, 0) < 0 && (sockets_abort(&change), true))) {
        if (is_new)
            ctl_free(ctl);
        return -EXIT_CODE_SYSTEM;
    }
    sockets_commit(&ctl->sockets, &change);
    while (!list_is_empty(&ctl->sockets.leaving))
        bound_free(CONTAINER_OF(ctl->sockets.leaving.next, struct bound, node));
    if (!listen_again(ctl))
        log_error("control.socket: %s cannot be listened to: %s", conf->control_socket,
                  strerror(errno));
    m->ctl = ctl;
    CHILDREN_EACH(c, m)
        ctl_watch(m, c);
    if (conf->control_socket == NULL)
        clients_free(ctl); /* the status page alone asks from now on */
    else if (!was_answered)
        log_info("ringcornctl is answered on %s", conf->control_socket);
    return 0;
}

void
ctl_watch(struct master *m, struct child *c)
{
    if (m->ctl == NULL || c->asks < 0)
        return;
    c->ctl_source = (struct ctl_source){ CTL_WORKER, c };
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = &c->ctl_source };
    /* EEXIST; else it does not answer, and that is said */
    (void)epoll_ctl(m->ctl->epoll, EPOLL_CTL_ADD, c->asks, &e);
}

void
ctl_unwatch(struct master *m, struct child *c)
{
    if (m->ctl != NULL && c->asks >= 0)
        (void)epoll_ctl(m->ctl->epoll, EPOLL_CTL_DEL, c->asks, NULL);
}

int
ctl_fd(const struct master *m)
{
    return m->ctl != NULL ? m->ctl->epoll : -1;
}

void
ctl_turn(struct master *m)
{
    struct ctl *ctl = m->ctl;
    struct epoll_event events[EVENTS_MAX];
    int n = ctl != NULL ? epoll_wait(ctl->epoll, events, EVENTS_MAX, 0) : 0;
    bool is_new_one = false;
    for (int i = 0; i < n; i++) {
        const struct ctl_source *source = events[i].data.ptr;
        if (source->kind == CTL_WORKER)
            ctl_heard(m, source->self);
        else if (source->kind == CTL_CLIENT)
            client_turn(m, ctl, source->self, events[i].events); /* may free it, source and all */
        else
            is_new_one = true;
    }
    if (!is_new_one)
        return;
    /* Last: a new client may get the memory of one that has just gone. */
    BOUNDS_EACH(b, &ctl->sockets.bounds)
        accept_all(ctl, b->v[0].fd);
}

void
ctl_flush(struct master *m)
{
    int64_t now_ns = clock_ns();
    advise_turn(m, now_ns);
    LIST_FOR_EACH_SAFE(node, &m->ctl_jobs) {
        struct ctl_job *job = CONTAINER_OF(node, struct ctl_job, node);
        job->look(m, job, now_ns);
    }
    struct ctl *ctl = m->ctl;
    if (ctl == NULL)
        return;
    ctl->has_told = false;
    if (ctl->accept_at_ns != 0 && ctl->accept_at_ns <= now_ns)
        listen_on(ctl, true);
    LIST_FOR_EACH_SAFE(node, &ctl->clients) {
        struct client *c = CONTAINER_OF(node, struct client, node);
        if (c->out.n > c->out_done || (!c->is_asking && c->in.n > 0))
            client_turn(m, ctl, c, 0);
    }
}

int64_t
ctl_next_ns(const struct master *m)
{
    const struct ctl *ctl = m->ctl;
    int64_t next = ctl != NULL && ctl->has_told; /* a time long past */
    next = sooner(next, m->advise.at_ns);
    if (ctl != NULL && ctl->accept_at_ns != 0)
        next = sooner(next, ctl->accept_at_ns);
    if (ctl != NULL)
        LIST_FOR_EACH(node, &ctl->clients) {
            const struct client *c = CONTAINER_OF(node, struct client, node);
            next = sooner(next, c->took_ns != 0 ? c->took_ns + TAKE_MS * NS_PER_MS : 0);
        }
    LIST_FOR_EACH(node, &m->ctl_jobs)
        next = sooner(next, CONTAINER_OF(node, struct ctl_job, node)->until_ns);
    return next;
}

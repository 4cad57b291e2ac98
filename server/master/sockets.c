/* sockets.c: the set of listening sockets: what `bind` asks for, what is there already, what
 * goes. Leaves to others: how an address, a file or an inherited descriptor becomes a socket
 * (tcp.c, uds.c, inherited.c), and which worker accepts from which socket (coverage.c). Owns:
 * every struct bound, its descriptors, its unix socket file. */
#include "sockets.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

void
sockets_init(struct sockets *s)
{
    list_init(&s->bounds);
    list_init(&s->leaving);
    list_init(&s->lent);
    s->next_id = 1;
}

static void
bounds_free(struct list *bounds)
{
    for (struct list *node; (node = list_pop(bounds)) != NULL;)
        bound_free(CONTAINER_OF(node, struct bound, node));
}

void
sockets_fini(struct sockets *s)
{
    bounds_free(&s->leaving);
    bounds_free(&s->lent);
    bounds_free(&s->bounds);
}

bool
bind_is_tls(const struct conf *conf, const struct conf_bind *bind)
{
    return conf->tls_cert.n > 0 && bind->scheme != CONF_SCHEME_HTTP;
}

struct bound *
bound_new(enum conf_bind_kind kind, const char *text, bool is_per_slot)
{
    struct bound *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return NULL;
    b->text = strdup(text);
    if (b->text == NULL) {
        free(b);
        return NULL;
    }
    list_init(&b->node);
    b->kind = kind;
    b->is_per_slot = is_per_slot;
    b->quiet_since_ns = -1;
    return b;
}

int
bound_add(struct sockets *s, struct bound *b, int fd)
{
    struct msocket *v = realloc(b->v, (b->n + 1) * sizeof(*v));
    if (v == NULL) {
        close(fd);
        return -ENOMEM;
    }
    b->v = v;
    b->v[b->n] = (struct msocket){
        .id = s->next_id++,
        .fd = fd,
        .slot = b->is_per_slot ? (int)b->n : SLOT_SHARED,
        .is_listening = b->kind == CONF_BIND_FD || b->kind == CONF_BIND_SYSTEMD,
    };
    b->n++;
    return 0;
}

void
bound_free(struct bound *b)
{
    if (b->kind == CONF_BIND_UNIX && !b->is_lent)
        uds_remove(b);
    for (unsigned i = 0; i < b->n; i++)
        close(b->v[i].fd);
    list_del(&b->node);
    free(b->v);
    free(b->text);
    free(b->path);
    free(b);
}

int
bound_listen(struct bound *b, struct msocket *k, unsigned backlog)
{
    if (listen(k->fd, (int)backlog) < 0) {
        int err = errno;
        log_operator("cannot listen on %s: %s", b->text, strerror(err));
        return -err;
    }
    k->is_listening = true;
    return 0;
}

int
sockets_prepare(struct sockets *s, const struct conf *conf, unsigned slots,
                struct sockets_change *change)
{
    list_init(&change->fresh);
    change->conf = conf;
    BOUNDS_EACH(b, &s->bounds)
        b->is_kept = false;
    /* Inherited descriptors first: a number that is free now must not become one of our own
     * sockets and be mistaken for them. */
    int failed = 0;
    for (size_t i = 0; i < conf->binds_n; i++) {
        const struct conf_bind *bind = &conf->binds[i];
        if (bind->kind == CONF_BIND_FD || bind->kind == CONF_BIND_SYSTEMD)
            failed |= inherited_open(s, bind, change);
    }
    for (size_t i = 0; i < conf->binds_n; i++) {
        const struct conf_bind *bind = &conf->binds[i];
        if (bind->kind == CONF_BIND_TCP)
            failed |= tcp_open(s, bind, conf->reuse_port, slots, change);
        else if (bind->kind == CONF_BIND_UNIX)
            failed |= uds_open(s, bind, conf, slots, change);
    }
    if (failed == 0)
        return 0;
    sockets_abort(change);
    return -EXIT_CODE_SYSTEM;
}

static int
listen_for_slot(struct sockets *s, struct list *bounds, unsigned slot, const struct conf *conf)
{
    BOUNDS_EACH(b, bounds) {
        bool is_first = true;
        for (unsigned i = 0; i < b->n; i++)
            is_first &= !b->v[i].is_listening;
        for (unsigned i = 0; i < b->n; i++) {
            struct msocket *k = &b->v[i];
            /* Clients choose a path, and one whose worker is not there yet would refuse them: all of
             * them listen, and who is ready serves them (coverage.c). */
            bool is_meant =
                k->slot == SLOT_SHARED || k->slot == (int)slot || b->kind == CONF_BIND_UNIX;
            if (k->is_listening || !is_meant)
                continue;
            if (is_first && b->kind == CONF_BIND_TCP && tcp_check_alone(s, b) < 0) {
                log_operator("cannot listen on %s: another server began to listen there meanwhile; "
                             "stop it, or choose another port with --bind",
                             b->text);
                return -EXIT_CODE_SYSTEM;
            }
            if (b->kind == CONF_BIND_UNIX && !uds_is_ours(b, k)) {
                log_operator("cannot listen on %s: the file was removed or replaced meanwhile; "
                             "is another server started with the same path?",
                             b->text);
                return -EXIT_CODE_SYSTEM;
            }
            if (bound_listen(b, k, conf->backlog) < 0)
                return -EXIT_CODE_SYSTEM;
            is_first = false;
        }
    }
    return 0;
}

int
sockets_listen(struct sockets *s, unsigned slot, const struct conf *conf)
{
    return listen_for_slot(s, &s->bounds, slot, conf);
}

int
sockets_change_listen(struct sockets *s, struct sockets_change *change, unsigned slot)
{
    return listen_for_slot(s, &change->fresh, slot, change->conf);
}

void
bound_shut_door(struct bound *b)
{
    if (b->is_lent)
        return;
    if (b->kind == CONF_BIND_TCP)
        tcp_drop_syns(b);
    else if (b->kind == CONF_BIND_UNIX)
        uds_remove(b);
}

void
bound_apply(struct bound *b, const struct conf *conf)
{
    if (b->kind == CONF_BIND_UNIX)
        (void)uds_apply(b, conf); /* printed; the socket works as it was */
    if (b->kind == CONF_BIND_TCP || b->kind == CONF_BIND_UNIX)
        for (unsigned i = 0; i < b->n; i++)
            if (b->v[i].is_listening) /* again: this is how a backlog is changed */
                (void)bound_listen(b, &b->v[i], conf->backlog);
}

void
sockets_commit(struct sockets *s, struct sockets_change *change)
{
    LIST_FOR_EACH_SAFE(node, &s->bounds) {
        struct bound *b = CONTAINER_OF(node, struct bound, node);
        if (!b->is_kept) {
            list_del(&b->node);
            list_add_tail(b->is_lent ? &s->lent : &s->leaving, &b->node);
            bound_shut_door(b);
            continue;
        }
        if (!b->is_lent)
            bound_apply(b, change->conf);
    }
    list_splice(&s->bounds, &change->fresh);
    BOUNDS_EACH(b, &s->bounds)
        b->is_tls = b->is_tls_next;
    change->conf = NULL;
}

void
sockets_abort(struct sockets_change *change)
{
    bounds_free(&change->fresh);
    change->conf = NULL;
}

int
sockets_grow(struct sockets *s, unsigned slots, const struct conf *conf)
{
    BOUNDS_EACH(b, &s->bounds)
        while (b->is_per_slot && b->n < slots) {
            if (b->kind == CONF_BIND_UNIX) {
                if (uds_add_slot(s, b, conf) < 0)
                    return -EXIT_CODE_SYSTEM;
                continue;
            }
            int err = tcp_add_slot(s, b);
            if (err < 0) {
                log_operator("cannot open one more socket on %s: %s", b->text, strerror(-err));
                return -EXIT_CODE_SYSTEM;
            }
        }
    return 0;
}

void
sockets_shut_doors(struct sockets *s)
{
    BOUNDS_EACH(b, &s->bounds)
        bound_shut_door(b);
}

bool
bound_is_waiting(const struct bound *b)
{
    if (b->kind == CONF_BIND_FD || b->kind == CONF_BIND_SYSTEMD || b->is_lent)
        return false; /* the queue stays with whoever else holds the socket */
    for (unsigned i = 0; i < b->n; i++) {
        struct pollfd p = { .fd = b->v[i].fd, .events = POLLIN };
        if (b->v[i].is_listening && poll(&p, 1, 0) > 0 && (p.revents & POLLIN))
            return true;
    }
    return false;
}

bool
sockets_are_waiting(const struct sockets *s)
{
    BOUNDS_EACH(b, &s->bounds)
        if (bound_is_waiting(b))
            return true;
    BOUNDS_EACH(b, &s->leaving)
        if (bound_is_waiting(b))
            return true;
    return false;
}

static void
forget(const struct list *bounds)
{
    BOUNDS_EACH(b, bounds)
        for (unsigned i = 0; i < b->n; i++)
            close(b->v[i].fd);
}

void
sockets_forget(const struct sockets *s)
{
    forget(&s->bounds);
    forget(&s->leaving);
    forget(&s->lent);
}

void
sockets_change_forget(const struct sockets_change *change)
{
    forget(&change->fresh);
}

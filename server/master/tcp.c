/* tcp.c: host:port as listening sockets.
 *
 * With reuse_port every slot has a socket of its own and the kernel spreads connections over
 * those that listen. SO_REUSEPORT has a trap: a second server of the same user binds the same
 * port without an error, and takes half of the connections. So an address is probed with a
 * socket that has SO_REUSEADDR alone: refused while anybody listens there, allowed over
 * TIME_WAIT. A server that is bound and does not listen yet (it boots) is not seen by that,
 * hence tcp_check_alone() just before the first listen(). */
#include "sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

enum {
    PORT_ATTEMPTS = 16, /* port 0: a port free on one address may be taken on another */
    ADDRESS_TEXT = INET6_ADDRSTRLEN + IF_NAMESIZE + 10,
};

static uint16_t
port_of(const struct sockaddr_storage *a)
{
    return ntohs(a->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)a)->sin6_port
                                          : ((const struct sockaddr_in *)a)->sin_port);
}

static void
port_set(struct sockaddr_storage *a, uint16_t port)
{
    if (a->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)a)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)a)->sin_port = htons(port);
}

static bool
host_is_equal(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    const struct sockaddr_in6 *x = (const struct sockaddr_in6 *)a,
                              *y = (const struct sockaddr_in6 *)b;
    return memcmp(&x->sin6_addr, &y->sin6_addr, sizeof(x->sin6_addr)) == 0 &&
           x->sin6_scope_id == y->sin6_scope_id;
}

static bool
host_is_any(const struct sockaddr_storage *a)
{
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr == htonl(INADDR_ANY);
    return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

/* "127.0.0.1:8000" or "[::1]:8000". */
static void
address_text(const struct sockaddr_storage *a, socklen_t len, char out[ADDRESS_TEXT])
{
    char host[INET6_ADDRSTRLEN + IF_NAMESIZE] = "?";
    getnameinfo((const struct sockaddr *)a, len, host, sizeof(host), NULL, 0, NI_NUMERICHOST);
    snprintf(out, ADDRESS_TEXT, a->ss_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, port_of(a));
}

static int
set_on(int fd, int level, int option)
{
    int on = 1;
    return setsockopt(fd, level, option, &on, sizeof(on)) < 0 ? -errno : 0;
}

/* A socket bound to a; addr is updated with the port that the kernel chose. Returns the
 * descriptor or -errno. */
static int
bind_socket(struct sockaddr_storage *a, socklen_t len, bool is_reuse_port)
{
    FD_OWNED int fd = socket(a->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    if (fd < 0)
        return -errno;
    int err = set_on(fd, SOL_SOCKET, SO_REUSEADDR);
    if (err == 0 && is_reuse_port)
        err = set_on(fd, SOL_SOCKET, SO_REUSEPORT);
    /* 0.0.0.0 and :: are two addresses here, as they read. */
    if (err == 0 && a->ss_family == AF_INET6)
        err = set_on(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    /* Inherited by what is accepted: saves a call each. */
    if (err == 0)
        err = set_on(fd, IPPROTO_TCP, TCP_NODELAY);
    if (err == 0 && bind(fd, (const struct sockaddr *)a, len) < 0)
        err = -errno;
    socklen_t got = sizeof(*a);
    if (err == 0 && getsockname(fd, (struct sockaddr *)a, &got) < 0)
        err = -errno;
    return err < 0 ? err : fd_take(&fd);
}

/* Whether a socket of ours (other than those of except) stands in the way of one bound to a. */
static bool
bounds_overlap(const struct list *bounds, const struct sockaddr_storage *a,
               const struct bound *except, bool is_to_share)
{
    bool found = false;
    BOUNDS_EACH(b, bounds) {
        if (b == except || b->kind != CONF_BIND_TCP || b->addr.ss_family != a->ss_family ||
            port_of(&b->addr) != port_of(a))
            continue;
        if (!host_is_equal(&b->addr, a) && !host_is_any(&b->addr) && !host_is_any(a))
            continue;
        found = true;
        /* The kernel looks at the option of both sockets when the second is bound, so setting it
         * late is enough. */
        for (unsigned i = 0; is_to_share && i < b->n; i++)
            (void)set_on(b->v[i].fd, SOL_SOCKET, SO_REUSEPORT);
    }
    return found;
}

static bool
overlaps_ours(const struct sockets *s, const struct sockaddr_storage *a, const struct bound *except,
              bool is_to_share)
{
    bool in_set = bounds_overlap(&s->bounds, a, except, is_to_share);
    in_set |= bounds_overlap(&s->lent, a, except, is_to_share);
    return bounds_overlap(&s->leaving, a, except, is_to_share) || in_set;
}

int
tcp_check_alone(const struct sockets *s, const struct bound *b)
{
    struct sockaddr_storage a = b->addr;
    int fd = bind_socket(&a, b->addr_len, false);
    if (fd >= 0) {
        close(fd);
        return 0;
    }
    if (fd != -EADDRINUSE || overlaps_ours(s, &b->addr, b, false))
        return 0;
    return -EADDRINUSE;
}

/* One address as a new bound with all its sockets. Returns 0 or -errno. */
static int
open_address(struct sockets *s, struct sockaddr_storage a, socklen_t len, uint16_t port_asked,
             bool is_per_slot, unsigned slots, struct bound **out)
{
    bool is_reuse_port = is_per_slot;
    /* Held until our own sockets are bound: between the two a port chosen by the kernel could be
     * given away. */
    FD_OWNED int probe = bind_socket(&a, len, false);
    if (probe == -EADDRINUSE && port_of(&a) != 0 && overlaps_ours(s, &a, NULL, true))
        is_reuse_port = true; /* e.g. 127.0.0.1:80 becomes 0.0.0.0:80: for a moment both are ours */
    else if (probe < 0)
        return probe;
    char text[ADDRESS_TEXT];
    address_text(&a, len, text);
    struct bound *b = bound_new(CONF_BIND_TCP, text, is_per_slot);
    if (b == NULL)
        return -ENOMEM;
    b->addr = a;
    b->addr_len = len;
    b->port_asked = port_asked;
    for (unsigned i = 0; i < (is_per_slot ? slots : 1); i++) {
        int fd = bind_socket(&a, len, is_reuse_port);
        int err = fd < 0 ? fd : bound_add(s, b, fd);
        if (err < 0) {
            bound_free(b);
            return err;
        }
    }
    *out = b;
    return 0;
}

int
tcp_add_slot(struct sockets *s, struct bound *b)
{
    struct sockaddr_storage a = b->addr;
    int fd = bind_socket(&a, b->addr_len, true);
    return fd < 0 ? fd : bound_add(s, b, fd);
}

/* The bound that serves the address already, and is not spoken for by an earlier `bind`. */
static struct bound *
find(struct list *bounds, const struct sockaddr_storage *a, uint16_t port_asked, bool is_fresh)
{
    BOUNDS_EACH(b, bounds)
        if (b->kind == CONF_BIND_TCP && b->port_asked == port_asked && host_is_equal(&b->addr, a) &&
            (port_asked != 0 || (!is_fresh && !b->is_kept)))
            return b;
    return NULL;
}

static void
print_refusal(const struct conf_bind *bind, const char *address, int err)
{
    switch (err) {
    case -EADDRINUSE:
        log_operator("cannot listen on %s: the port is in use; stop the server that has it, or "
                     "choose another port with --bind",
                     address);
        return;
    case -EACCES:
        log_operator("cannot listen on %s: no permission; ports below 1024 need root or "
                     "CAP_NET_BIND_SERVICE: choose a higher port, or start as root and set `user`",
                     address);
        return;
    case -EADDRNOTAVAIL:
        log_operator("cannot listen on %s (bind %s): this machine has no such address; "
                     "0.0.0.0 or [::] take every address",
                     address, bind->text);
        return;
    default:
        log_operator("cannot listen on %s (bind %s): %s", address, bind->text, strerror(-err));
    }
}

/* Opens all addresses of a bind whose port is port (0: as the kernel likes, the same for all).
 * What is opened goes to opened, also on failure. Returns 0, or -errno with *refused set to the
 * address. */
static int
open_all(struct sockets *s, const struct conf_bind *bind, const struct addrinfo *found,
         bool is_per_slot, unsigned slots, struct sockets_change *change, struct list *opened,
         const struct addrinfo **refused)
{
    uint16_t port = bind->port;
    int first_err = 0;
    unsigned n = 0;
    for (const struct addrinfo *ai = found; ai != NULL; ai = ai->ai_next) {
        struct sockaddr_storage a = { 0 };
        memcpy(&a, ai->ai_addr, ai->ai_addrlen);
        struct bound *b = find(&s->bounds, &a, bind->port, false);
        if (b == NULL)
            b = find(&change->fresh, &a, bind->port, true);
        if (b == NULL)
            b = find(opened, &a, bind->port, true); /* a name may say it twice */
        if (b != NULL) {
            /* Two kinds of socket on one address would share its connections while one leaves. */
            if (b->is_per_slot != is_per_slot)
                log_warning("reuse_port: %s keeps its sockets until the next start", b->text);
            b->is_kept = true;
            b->is_tls_next = bind_is_tls(change->conf, bind);
            port = port_of(&b->addr);
            n++;
            continue;
        }
        port_set(&a, port);
        int err = open_address(s, a, ai->ai_addrlen, bind->port, is_per_slot, slots, &b);
        if (err == 0) {
            b->is_tls_next = bind_is_tls(change->conf, bind);
            list_add_tail(opened, &b->node);
            port = port_of(&b->addr);
            n++;
        } else if (first_err == 0 || err == -EADDRINUSE) {
            first_err = err;
            *refused = ai;
        }
    }
    /* A name, or "every address", may include a family that this machine does not have. */
    bool is_absent = first_err == -EAFNOSUPPORT || first_err == -EADDRNOTAVAIL;
    return n > 0 && is_absent ? 0 : first_err;
}

int
tcp_open(struct sockets *s, const struct conf_bind *bind, bool is_per_slot, unsigned slots,
         struct sockets_change *change)
{
    struct addrinfo hints = { .ai_family = AF_UNSPEC,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *found;
    char service[8];
    snprintf(service, sizeof(service), "%u", bind->port);
    int err = getaddrinfo(bind->host != NULL && bind->host[0] != '\0' ? bind->host : NULL, service,
                          &hints, &found);
    if (err != 0) {
        log_operator("cannot listen on %s: the name %s does not resolve (%s); write an address, as "
                     "127.0.0.1:8000",
                     bind->text, bind->host,
                     err == EAI_SYSTEM ? strerror(errno) : gai_strerror(err));
        return -EXIT_CODE_SYSTEM;
    }
    struct list opened;
    const struct addrinfo *refused = NULL;
    list_init(&opened);
    for (int attempt = 0;; attempt++) {
        err = open_all(s, bind, found, is_per_slot, slots, change, &opened, &refused);
        if (err == 0)
            break;
        while (!list_is_empty(&opened))
            bound_free(CONTAINER_OF(opened.next, struct bound, node));
        if (err != -EADDRINUSE || bind->port != 0 || attempt >= PORT_ATTEMPTS)
            break;
    }
    if (err == 0) {
        list_splice(&change->fresh, &opened);
    } else {
        struct sockaddr_storage a = { 0 };
        char text[ADDRESS_TEXT];
        memcpy(&a, refused->ai_addr, refused->ai_addrlen);
        address_text(&a, refused->ai_addrlen, text);
        print_refusal(bind, text, err);
    }
    freeaddrinfo(found);
    return err == 0 ? 0 : -EXIT_CODE_SYSTEM;
}

/* Handshakes under way are finished and queued; a new SYN gets no answer and is sent again a
 * second later, when the port is closed (refused) or someone else's. Nobody is reset, which
 * close() would do to the whole queue. */
void
tcp_drop_syns(const struct bound *b)
{
    static const struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),          /* the flags; offset 0 is the TCP header */
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),       /* SYN and ACK */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1), /* SYN alone? */
        BPF_STMT(BPF_RET | BPF_K, 0),                    /* drop */
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),           /* keep it whole */
    };
    struct sock_fprog program = { .len = ARRAY_LEN(code), .filter = (struct sock_filter *)code };
    for (unsigned i = 0; i < b->n; i++)
        if (setsockopt(b->v[i].fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
            log_debug("no filter on %s: %s; its last few may be reset", b->text, strerror(errno));
}

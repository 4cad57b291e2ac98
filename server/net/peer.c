/* peer.c: who is at both ends of a connection.
 * What a proxy said counts (proxy_protocol.c). Else the kernel is asked at first use, not for every
 * connection, and the answer is kept in 22 bytes: the access log needs the peer after it has gone. */
#include <netinet/tcp.h>
#include <string.h>

#include "net.h"

static const struct sockaddr_storage *
unknown(struct net *net)
{
    memset(&net->addr, 0, sizeof(net->addr));
    net->addr.ss_family = AF_UNSPEC;
    return &net->addr;
}

static void
peer_ask(struct conn *c)
{
    struct sockaddr_storage addr = { 0 };
    socklen_t n = sizeof(addr);
    if (c->fd < 0 || getpeername(c->fd, (struct sockaddr *)&addr, &n) < 0)
        return;
    if (addr.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&addr;
        memcpy(&c->peer, &in->sin_addr, sizeof(in->sin_addr));
        c->peer_port = in->sin_port;
    } else if (addr.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&addr;
        c->peer = in6->sin6_addr;
        c->peer_port = in6->sin6_port;
        c->peer_scope = in6->sin6_scope_id;
    }
    c->peer_known = true;
}

const struct sockaddr_storage *
conn_peer(struct conn *c)
{
    struct sockaddr_storage *addr = &c->net->addr;
    if (UNLIKELY(c->proxied != NULL)) {
        *addr = net_address_sockaddr(&c->proxied->client);
        return addr;
    }
    if (!c->peer_known)
        peer_ask(c);
    if (!c->peer_known)
        return unknown(c->net);
    memset(addr, 0, sizeof(*addr));
    addr->ss_family = c->family;
    if (c->family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)addr;
        memcpy(&in->sin_addr, &c->peer, sizeof(in->sin_addr));
        in->sin_port = c->peer_port;
    } else if (c->family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)addr;
        in6->sin6_addr = c->peer;
        in6->sin6_port = c->peer_port;
        in6->sin6_scope_id = c->peer_scope;
    }
    return addr;
}

const struct sockaddr_storage *
conn_local(struct conn *c)
{
    struct sockaddr_storage *addr = &c->net->addr;
    if (UNLIKELY(c->proxied != NULL) && c->proxied->server.family != AF_UNIX) {
        *addr = net_address_sockaddr(&c->proxied->server);
        return addr;
    }
    socklen_t n = sizeof(*addr);
    memset(addr, 0, sizeof(*addr));
    if (c->fd < 0 || getsockname(c->fd, (struct sockaddr *)addr, &n) < 0)
        return unknown(c->net);
    return addr;
}

bool
conn_is_unreachable(const struct conn *c, int64_t ms)
{
    struct tcp_info info;
    socklen_t n = sizeof(info);
    return c->family != AF_UNIX && getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 &&
           info.tcpi_unacked > 0 && info.tcpi_last_ack_recv >= ms;
}

bool
conn_peer_is_trusted(struct conn *c)
{
    struct net_address peer = net_address_of(conn_peer(c));
    return net_trusts(c->net, &peer);
}

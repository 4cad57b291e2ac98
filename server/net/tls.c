/* tls.c: TLS for one connection. OpenSSL gets a BIO of ours: it reads from the socket straight into
 * the library's own buffer, and what the library writes is queued as records behind each other, so
 * that what a turn has to say, tickets and close_notify included, leaves in one send.
 *
 * The library never sees the end of the socket: a FIN without close_notify is an end all the same,
 * as it is without TLS, and what it cut off is not taken for whole, because HTTP says how long a
 * body is. Leaves to conn.c when a handshake may take its next step, and what follows from its end.
 *
 * Owns:   the SSL, the records on their way, a reference to the set it was begun with.
 * Always: plain bytes are made into records only when all earlier ones are sent; until then they
 *         count in conn.out_bytes, so back-pressure is as without TLS. */
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/bio.h>
#include <openssl/err.h>

#include "base/base.h"
#include "metrics/metrics.h"
#include "net/out.h"
#include "net/tls_private.h"

enum { ERROR_ROOM = 256 };

/* --- the BIO ------------------------------------------------------------------------------------ */

static int
bio_read(BIO *bio, char *to, int room)
{
    struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t n = -1;
    if (t->readable)
        n = recv(t->conn->fd, to, (size_t)room, MSG_DONTWAIT);
    else
        errno = EAGAIN;
    if (n > 0) {
        /* As note_recv(): a short read has emptied the socket, unless its end is behind it. */
        t->readable = n == room || t->conn->gone;
        /* A record begins with a byte below 32, a request of HTTP with a capital letter. */
        t->is_plain = !t->has_read && to[0] >= 'A' && to[0] <= 'Z';
        t->has_read = true;
        return t->is_plain ? -1 : (int)n;
    }
    t->readable = n < 0 && errno == EINTR;
    if (n == 0)
        t->fin = true;
    if (n == 0 || errno == EAGAIN || errno == EINTR)
        BIO_set_retry_read(bio);
    else
        t->err = -errno;
    return -1;
}

static int
bio_write(BIO *bio, const char *p, int n)
{
    struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (n <= 0)
        return n;
    if (t->wire_bytes > TLS_WIRE_MAX ||
        outq_append(t->conn, &t->wire, p, (size_t)n, t->capacity) < 0) {
        t->err = -ENOBUFS;
        return -1;
    }
    t->wire_bytes += (size_t)n;
    return n;
}

static long
bio_ctrl(BIO *bio, int what, long number, void *p)
{
    (void)bio, (void)number, (void)p;
    return what == BIO_CTRL_FLUSH;
}

static BIO_METHOD *
bio_method(void)
{
    static BIO_METHOD *method; /* lives as long as the process */
    if (method != NULL)
        return method;
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "ringcorn");
    if (m == NULL || BIO_meth_set_read(m, bio_read) != 1 || BIO_meth_set_write(m, bio_write) != 1 ||
        BIO_meth_set_ctrl(m, bio_ctrl) != 1) {
        BIO_meth_free(m);
        return NULL;
    }
    return method = m;
}

/* --- the beginning and the end ------------------------------------------------------------------ */

int
tls_open(struct conn *c)
{
    struct tls *t = calloc(1, sizeof(*t));
    if (t == NULL)
        return -ENOMEM;
    t->conn = c;
    c->tls = t;
    return 0;
}

/* With the first bytes: who connects and says nothing costs little. Returns 0 or -ENOMEM. */
static int
ssl_open(struct tls *t)
{
    struct tls_set *set = t->conn->net->tls;
    BIO *bio = bio_method() == NULL ? NULL : BIO_new(bio_method());
    SSL *ssl = bio == NULL || set == NULL ? NULL : SSL_new(set->certs[0].ctx);
    if (ssl == NULL) {
        BIO_free(bio);
        ERR_clear_error();
        return -ENOMEM;
    }
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_accept_state(ssl);
    set->refs++;
    t->set = set;
    t->ssl = ssl;
    return 0;
}

void
tls_close(struct conn *c)
{
    struct tls *t = c->tls;
    outq_drop(c, &t->wire);
    SSL_free(t->ssl);
    tls_set_free(t->set);
    free(t);
    c->tls = NULL;
}

/* --- the handshake ------------------------------------------------------------------------------- */

/* Whoever sets up client certificates wants to know why one is refused; garbage is for debugging. */
static void
log_refused(struct conn *c)
{
    char host[NI_MAXHOST] = "?", text[ERROR_ROOM];
    long verified = SSL_get_verify_result(c->tls->ssl);
    int reason = ERR_GET_REASON(ERR_peek_error());
    bool is_about_client =
        verified != X509_V_OK || reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE;
    tls_error(text, sizeof(text));
    if (!is_about_client && !log_is_on(LOG_DEBUG))
        return;
    (void)getnameinfo((const struct sockaddr *)conn_peer(c), sizeof(struct sockaddr_storage), host,
                      sizeof(host), NULL, 0, NI_NUMERICHOST);
    if (is_about_client)
        log_info("TLS: %s is refused: client certificate: %s", host,
                 verified != X509_V_OK ? X509_verify_cert_error_string(verified) : text);
    else
        log_debug("TLS: no handshake with %s: %s", host, text);
}

static bool
may_read(const struct tls *t)
{
    return t->readable || t->fin || SSL_has_pending(t->ssl);
}

/* The handshake's last word was the client's, and there is nothing to say before its request: one
 * without TCP_NODELAY keeps that back until it hears of its Finished, which the kernel would put off
 * for 40 ms. */
static void
acknowledge(struct conn *c)
{
    c->tls->owes_ack = false;
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &(int){ 1 }, sizeof(int));
}

void
tls_handshake(struct conn *c)
{
    struct tls *t = c->tls;
    if (c->state != CONN_HANDSHAKE || (c->awaits_proxy && !proxy_header_read(c)))
        return;
    if (t->ssl == NULL && ssl_open(t) < 0) {
        conn_close(c);
        return;
    }
    ERR_clear_error();
    int result = SSL_do_handshake(t->ssl);
    if (t->wire_bytes > 0)
        conn_dirty(c);
    if (result == 1) {
        metrics_add(SSL_session_reused(t->ssl) ? &metrics_here->loop.tls_resumed
                                               : &metrics_here->loop.tls_done,
                    1);
        /* Not before: a handshake would take and free them at every step. */
        SSL_set_mode(t->ssl, SSL_MODE_RELEASE_BUFFERS);
        SSL_free_buffers(t->ssl);
        t->owes_ticket = !(SSL_get_options(t->ssl) & SSL_OP_NO_TICKET);
        c->readable = may_read(t);
        t->owes_ack = t->wire_bytes == 0;
        if (t->owes_ack && !c->readable)
            acknowledge(c);
        conn_opened(c, false);
        return;
    }
    if (t->is_plain) {
        metrics_add(&metrics_here->loop.tls_failed, 1);
        tls_close(c);
        conn_opened(c, true);
        return;
    }
    bool is_waiting = SSL_get_error(t->ssl, result) == SSL_ERROR_WANT_READ;
    if (t->err < 0 || (is_waiting && t->fin)) {
        metrics_add(&metrics_here->loop.tls_failed, 1);
        ERR_clear_error();
        conn_close(c); /* there is nobody any more */
    } else if (!is_waiting) {
        metrics_add(&metrics_here->loop.tls_failed, 1);
        log_refused(c);
        t->is_dead = true;
        conn_refuse(c);
    }
}

/* --- bytes in ------------------------------------------------------------------------------------- */

/* A fatal error: its alert leaves now or never. */
static void
fail(struct conn *c, int err)
{
    struct tls *t = c->tls;
    const struct chunk *ch = t->wire.first;
    char text[ERROR_ROOM];
    t->is_dead = true;
    log_debug("TLS: a connection is given up: %s", tls_error(text, sizeof(text)));
    if (!c->send.armed && ch != NULL && ch->first < ch->n)
        (void)send(c->fd, ch->iov[ch->first].iov_base, ch->iov[ch->first].iov_len,
                   MSG_DONTWAIT | MSG_NOSIGNAL);
    conn_fail(c, err);
}

ssize_t
tls_read(struct conn *c, char *to, size_t room)
{
    struct tls *t = c->tls;
    size_t got = 0, n;
    int error = SSL_ERROR_NONE;
    ERR_clear_error();
    while (got < room) {
        if (SSL_read_ex(t->ssl, to + got, room - got, &n) != 1) {
            error = SSL_get_error(t->ssl, 0);
            break;
        }
        got += n;
        if (!SSL_has_pending(t->ssl) && !t->readable)
            break;
    }
    if (t->wire_bytes > 0) /* an answer to the peer's KeyUpdate, an alert */
        conn_dirty(c);
    bool is_end = error == SSL_ERROR_ZERO_RETURN || (error == SSL_ERROR_WANT_READ && t->fin);
    if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ && !is_end && got == 0) {
        fail(c, t->err < 0 ? t->err : -EPROTO);
        return -ECONNRESET;
    }
    if (got > 0) {
        t->owes_ack = false; /* the answer brings it */
        /* What ended it is found again by the next call. */
        c->readable =
            error == SSL_ERROR_NONE ? may_read(t) : error != SSL_ERROR_WANT_READ || is_end;
        return (ssize_t)got;
    }
    c->readable = false;
    if (!is_end) {
        if (t->owes_ack)
            acknowledge(c);
        return -EAGAIN;
    }
    c->eof = c->gone = true;
    return 0;
}

/* --- bytes out ------------------------------------------------------------------------------------ */

bool
tls_has_more(const struct conn *c)
{
    const struct tls *t = c->tls;
    if (t->wire_bytes > 0)
        return true;
    return !t->is_dead && (c->out_bytes > 0 || (c->state == CONN_FLUSHING && !t->is_told));
}

void
tls_forget_end(struct conn *c)
{
    if (!(SSL_get_shutdown(c->tls->ssl) & SSL_RECEIVED_SHUTDOWN))
        c->tls->is_told = true;
}

size_t
tls_sent(struct conn *c, size_t n)
{
    struct tls *t = c->tls;
    t->wire_bytes -= n;
    if (t->wire_bytes > 0)
        return 0;
    n = t->wire_plain;
    t->wire_plain = 0;
    return n;
}

/* What lies in a file; NULL with *n 0 where its disk is asked first, or *n a negative errno. */
static const char *
next_of_file(struct conn *c, struct file_piece *f, size_t most, ssize_t *n)
{
    static char bytes[TLS_BATCH];
    *n = out_file_read(c, f, bytes, most < sizeof(bytes) ? most : sizeof(bytes));
    return *n > 0 ? bytes : NULL;
}

/* The next bytes to make records of: as they lie, or small pieces gathered into a full record. NULL as above. */
static const char *
next_piece(struct conn *c, size_t pending, ssize_t *n)
{
    static char record[TLS_RECORD];
    const struct chunk *ch = c->out.first;
    while (ch->first == ch->n)
        ch = ch->next;
    const struct iovec *v = &ch->iov[ch->first];
    size_t whole = v->iov_len < pending ? v->iov_len : pending;
    if (UNLIKELY(v->iov_base == NULL))
        return next_of_file(c, ch->owner[ch->first], whole, n);
    if (v->iov_len >= pending || v->iov_len >= TLS_RECORD) {
        *n = (ssize_t)whole;
        return v->iov_base;
    }
    size_t got = 0, want = pending < TLS_RECORD ? pending : TLS_RECORD;
    for (unsigned i = ch->first; got < want; i++) {
        while (i == ch->n) {
            ch = ch->next;
            i = ch->first;
        }
        if (ch->iov[i].iov_base == NULL) /* a file is read by itself */
            break;
        size_t k = ch->iov[i].iov_len < want - got ? ch->iov[i].iov_len : want - got;
        memcpy(record + got, ch->iov[i].iov_base, k);
        got += k;
    }
    *n = (ssize_t)got;
    return record;
}

int
tls_fill(struct conn *c)
{
    struct tls *t = c->tls;
    if (t->is_dead || t->wire_plain > 0 || c->state == CONN_HANDSHAKE)
        return 0;
    size_t allowed = out_allowed(c), pending = allowed < TLS_BATCH ? allowed : TLS_BATCH;
    /* All of it behind each other: one piece, one send. */
    t->capacity = pending + (pending / TLS_RECORD + 3) * TLS_RECORD_EXTRA;
    ERR_clear_error();
    if (t->owes_ticket && pending > 0) {
        /* Made for 10 % of a handshake, so only for who asks something: it goes with the answer, in
         * one send. In TLS 1.2 it was part of the handshake, and this does nothing. */
        t->owes_ticket = false;
        t->capacity += TLS_TICKET;
        (void)SSL_new_session_ticket(t->ssl);
    }
    while (pending > 0) {
        size_t done;
        ssize_t n;
        const char *p = next_piece(c, pending, &n);
        if (p == NULL && n < 0)
            return (int)n;
        if (p == NULL)
            break;
        if (SSL_write_ex(t->ssl, p, (size_t)n, &done) != 1) {
            ERR_clear_error();
            return t->err < 0 ? t->err : -EPROTO;
        }
        outq_advance(c, &c->out, done);
        t->wire_plain += done;
        pending -= done;
    }
    if (c->state == CONN_FLUSHING && !t->is_told && t->wire_plain == c->out_bytes) {
        t->is_told = true;
        (void)SSL_shutdown(t->ssl); /* half of it: close_notify goes out, none is waited for */
        ERR_clear_error();
    }
    t->capacity = 0;
    return 0;
}

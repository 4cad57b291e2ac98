/* tls_private.h: what the files of TLS share among themselves and with conn.c and out.c. */
#ifndef RINGCORN_NET_TLS_PRIVATE_H
#define RINGCORN_NET_TLS_PRIVATE_H

#include <openssl/ssl.h>

#include "net/net.h"
#include "net/tls.h"

enum {
    TLS_BATCH = 64 * 1024,      /* plain bytes made into records for one send */
    TLS_RECORD = 16 * 1024,     /* plain bytes of a full record */
    TLS_RECORD_EXTRA = 128,     /* what a record adds, at most */
    TLS_TICKET = 512,           /* room for a session ticket: nearly half of it is used */
    TLS_WIRE_MAX = 256 * 1024,  /* records that wait to be sent: more is an attack */
    TLS_HANDSHAKES_A_TURN = 16, /* steps of handshakes between two looks at everything else */
    /* for a handshake when half of net.handshakes_max are under way */
    TLS_HANDSHAKE_CROWDED_MS = 2000,
};

/* What one certificate is: its context, and an OCSP answer about it. */
struct tls_cert {
    SSL_CTX *ctx;
    X509 *x509;          /* new */
    unsigned char *ocsp; /* DER, or NULL */
    size_t ocsp_n;
    int64_t ocsp_until_s; /* wall clock: not stapled from then on */
};

struct tls_name {
    const char *name; /* lower case, perhaps "*.example.org" */
    SSL_CTX *ctx;
};

struct tls_set {
    struct tls_tickets *tickets;
    struct tls_cert *certs; /* certs[0].ctx is where every handshake begins */
    size_t certs_n;
    struct tls_name *names; /* sorted; empty where there is one context */
    size_t names_n;
    unsigned refs; /* connections that were begun with it, and the owner */
};

static inline struct tls_set *
tls_set_of(const SSL *ssl)
{
    return SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
}

int tls_tickets_seal(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                     EVP_MAC_CTX *mac, int is_sealing);

/* The library context that handshakes are made in, with our own provider (tls_kdf.c), and how to ask
 * for what is preferred in it; NULL is the process's own. */
OSSL_LIB_CTX *tls_lib(void);
#define TLS_PROVIDER "ringcorn"
#define TLS_PROPERTIES "?provider=" TLS_PROVIDER

/* The library's oldest error as a short text, and its queue empty. */
const char *tls_error(char *text, size_t size);

/* Blocks that the library frees on the calling thread are kept for it from now on (tls_memory.c). */
void tls_memory_keep(void);

/* --- one connection (tls.c); c->tls is NULL where there is none ------------------------------- */

struct tls {
    SSL *ssl;
    struct tls_set *set; /* a reference */
    struct conn *conn;
    struct outq wire;  /* records on their way */
    size_t wire_bytes; /* of them */
    size_t wire_plain; /* of conn.out_bytes, what those records are made of */
    size_t capacity;   /* of a chunk of records that is taken now; 0 = the usual */
    int err;           /* -errno of the socket, or -ENOBUFS */
    bool readable;     /* as conn.readable, of the socket itself */
    bool owes_ack; /* the handshake's last word was the client's, and nothing came after it yet */
    bool fin;      /* the socket is at its end */
    bool has_read; /* something came */
    bool is_plain; /* and it was no TLS, but looked like HTTP */
    bool is_dead;  /* a fatal error: nothing is to be made into records any more */
    bool is_told;  /* close_notify was sent */
    bool owes_ticket; /* a session ticket of TLS 1.3 is still to be sent */
};

/* 0 or -ENOMEM. */
int tls_open(struct conn *c);
void tls_close(struct conn *c);
/* One step of the handshake; the connection may be in any state afterwards. */
void tls_handshake(struct conn *c);
/* Plain bytes: as recv(), with 0 at close_notify and at the socket's end. -errno: fatal, the alert is
 * on its way as far as it goes. */
ssize_t tls_read(struct conn *c, char *to, size_t room);
/* Makes records of what is queued, and of the end. 0 or -errno. Only while nothing is in flight. */
int tls_fill(struct conn *c);
/* Whether tls_fill() has something to do, or what it made waits. */
bool tls_has_more(const struct conn *c);
/* The peer has left and nothing waits for it: no close_notify, unless it has sent its own. */
void tls_forget_end(struct conn *c);
/* n bytes of records were sent. Returns how many plain bytes are with the kernel by that. */
size_t tls_sent(struct conn *c, size_t n);

#endif

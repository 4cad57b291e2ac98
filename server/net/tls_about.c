/* tls_about.c: what the application may know of a TLS connection: the fields of ASGI's "tls"
 * extension, as plain memory, because threads look at it after the connection has gone. Made at the
 * first request of a connection and kept. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "base/base.h"
#include "net/tls_private.h"

/* What a BIO in memory holds, as text: new, or NULL. */
static char *
bio_text(BIO *bio)
{
    char *p;
    long n = BIO_get_mem_data(bio, &p);
    return n < 0 ? NULL : strndup(p, (size_t)n);
}

static char *
pem_of(X509 *x509)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = bio != NULL && PEM_write_bio_X509(bio, x509) == 1 ? bio_text(bio) : NULL;
    BIO_free(bio);
    return text;
}

/* RFC 4514, in UTF-8: OpenSSL's RFC 2253 without the escapes for what is not ASCII. */
static char *
name_of(X509 *x509)
{
    BIO *bio = BIO_new(BIO_s_mem());
    bool is_written =
        bio != NULL && X509_NAME_print_ex(bio, X509_get_subject_name(x509), 0,
                                          XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) >= 0;
    char *text = is_written ? bio_text(bio) : NULL;
    BIO_free(bio);
    return text;
}

static int
chain_fill(struct tls_about *a, X509 *leaf, STACK_OF(X509) * others)
{
    int n = others == NULL ? 0 : sk_X509_num(others);
    a->client_chain = calloc((size_t)n + 1, sizeof(char *));
    if (a->client_chain == NULL)
        return -ENOMEM;
    for (int i = -1; i < n; i++) {
        char *pem = pem_of(i < 0 ? leaf : sk_X509_value(others, i));
        if (pem == NULL)
            return -ENOMEM;
        a->client_chain[a->client_chain_n++] = pem;
    }
    a->client_name = name_of(leaf);
    return a->client_name == NULL ? -ENOMEM : 0;
}

struct tls_about *
conn_tls_about(struct conn *c)
{
    if (c->tls == NULL)
        return NULL;
    SSL *ssl = c->tls->ssl;
    struct tls_about *a = calloc(1, sizeof(*a));
    if (a == NULL)
        return NULL;
    a->refs = 1;
    a->version = (unsigned)SSL_version(ssl);
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    a->cipher_suite = cipher == NULL ? 0 : SSL_CIPHER_get_protocol_id(cipher);
    X509 *ours = SSL_get_certificate(ssl), *theirs = SSL_get0_peer_certificate(ssl);
    a->server_cert = ours == NULL ? NULL : pem_of(ours);
    /* On the server's side the chain is without the client's own. */
    if (a->server_cert == NULL ||
        (theirs != NULL && chain_fill(a, theirs, SSL_get_peer_cert_chain(ssl)) < 0)) {
        tls_about_give(a);
        ERR_clear_error();
        return NULL;
    }
    return a;
}

struct tls_about *
tls_about_take(struct tls_about *about)
{
    if (about != NULL)
        atomic_fetch_add_explicit(&about->refs, 1, memory_order_relaxed);
    return about;
}

void
tls_about_give(struct tls_about *about)
{
    if (about == NULL || atomic_fetch_sub_explicit(&about->refs, 1, memory_order_acq_rel) > 1)
        return;
    for (size_t i = 0; i < about->client_chain_n; i++)
        free(about->client_chain[i]);
    free(about->client_chain);
    free(about->client_name);
    free(about->server_cert);
    free(about);
}

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
name_text(const X509_NAME *name)
{
    BIO *bio = BIO_new(BIO_s_mem());
    bool is_written =
        bio != NULL &&
        X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) >= 0;
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
    a->client_name = name_text(X509_get_subject_name(leaf));
    return a->client_name == NULL ? -ENOMEM : 0;
}

/* --- what a proxy has told ------------------------------------------------------------------------ */

/* "TLSv1.3", or "TLS 1.3". 0: none that we know. */
static unsigned
version_of(const char *name)
{
    const char *digits = strncmp(name, "TLS", 3) == 0 ? strchr(name, '1') : NULL;
    if (digits == NULL)
        return 0;
    if (digits[1] == '\0')
        return TLS1_VERSION;
    return digits[1] == '.' && digits[2] >= '0' && digits[2] <= '3' && digits[3] == '\0'
               ? TLS1_VERSION + (unsigned)(digits[2] - '0')
               : 0;
}

/* By either name that a cipher suite has. 0: none that the library knows. */
static unsigned
cipher_of(const char *name)
{
    static SSL *any; /* with every cipher there is; lives as long as the process */
    SSL_CTX *ctx = any == NULL ? SSL_CTX_new(TLS_method()) : NULL;
    if (ctx != NULL) {
        (void)SSL_CTX_set_cipher_list(ctx, "ALL:COMPLEMENTOFALL:@SECLEVEL=0");
        any = SSL_new(ctx);
        SSL_CTX_free(ctx);
    }
    STACK_OF(SSL_CIPHER) *all = any == NULL ? NULL : SSL_get_ciphers(any);
    for (int i = 0; all != NULL && i < sk_SSL_CIPHER_num(all); i++) {
        const SSL_CIPHER *one = sk_SSL_CIPHER_value(all, i);
        if (strcmp(name, SSL_CIPHER_get_name(one)) == 0 ||
            strcmp(name, SSL_CIPHER_standard_name(one)) == 0)
            return SSL_CIPHER_get_protocol_id(one);
    }
    return 0;
}

/* A subject that is a common name and, as far as we know, nothing else. */
static char *
name_of_common(const char *common)
{
    X509_NAME *subject = X509_NAME_new();
    bool is_made = subject != NULL &&
                   X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8,
                                              (const unsigned char *)common, -1, -1, 0) == 1;
    char *text = is_made ? name_text(subject) : NULL;
    X509_NAME_free(subject);
    return text;
}

/* The certificate itself, where it was told, else its name. What is no certificate, or no UTF-8, is
 * left out. Returns 0 or -ENOMEM. */
static int
proxied_client_fill(struct tls_about *a, const struct net_proxied_tls *told)
{
    if (!told->has_client_cert)
        return 0;
    const unsigned char *der = told->client_cert;
    X509 *leaf = told->client_cert_n == 0 ? NULL : d2i_X509(NULL, &der, (long)told->client_cert_n);
    int err = leaf == NULL ? 0 : chain_fill(a, leaf, NULL);
    X509_free(leaf);
    if (err == 0 && leaf == NULL && told->client_name[0] != '\0')
        a->client_name = name_of_common(told->client_name);
    if (err == 0 && told->client_error != 0 &&
        asprintf(&a->client_error, "%u: %s", told->client_error,
                 X509_verify_cert_error_string((long)told->client_error)) < 0) {
        a->client_error = NULL;
        return -ENOMEM;
    }
    return err;
}

static struct tls_about *
proxied_about(const struct net_proxied_tls *told)
{
    struct tls_about *a = calloc(1, sizeof(*a));
    if (a == NULL)
        return NULL;
    a->refs = 1;
    a->version = version_of(told->version);
    a->cipher_suite = told->cipher[0] == '\0' ? 0 : cipher_of(told->cipher);
    int err = proxied_client_fill(a, told);
    ERR_clear_error();
    if (err < 0) {
        tls_about_give(a);
        return NULL;
    }
    return a;
}

/* --- either ---------------------------------------------------------------------------------------- */

struct tls_about *
conn_tls_about(struct conn *c)
{
    if (c->proxied != NULL && c->proxied->tls != NULL)
        return proxied_about(c->proxied->tls);
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
    free(about->client_error);
    free(about->server_cert);
    free(about);
}

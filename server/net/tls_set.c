/* tls_set.c: what all TLS connections of a process share, made of what was read: one SSL_CTX a
 * certificate (two of different kinds for the same names share one, and the client's abilities
 * decide), the table of names for SNI, who of the clients is let in.
 * Owns: the contexts. A set lives as long as a connection that was begun with it. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "base/base.h"
#include "net/tls_private.h"

enum {
    NAMES_MAX = 65536,
    NAME_ROOM = 256, /* a host's name is at most 253 bytes */
    ERROR_ROOM = 256,
};

/* AES-128 first: as strong as the key exchange, and SHA-256 beside it costs less than SHA-384, all
 * of a handshake being hashed. A client that prefers ChaCha20, for want of AES in its CPU, gets it. */
#define CIPHERS_1_3                                                                                \
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

/* Forward secrecy and authenticated encryption, which leaves these of TLS 1.2. */
#define CIPHERS                                                                                    \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                                   \
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"                                   \
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"

/* While a set is made. */
struct making {
    struct tls_set *set;
    const struct conf *conf;
    const struct tls_files *files;
    tls_say_fn say;
    bool warns;
};

void
tls_say_error(const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_error("%s", text);
}

const char *
tls_library(void)
{
    return OpenSSL_version(OPENSSL_VERSION_STRING);
}

const char *
tls_error(char *text, size_t size)
{
    unsigned long code = ERR_peek_error();
    const char *reason = ERR_reason_error_string(code);
    snprintf(text, size, "%s",
             reason != NULL ? reason
             : code != 0    ? ERR_lib_error_string(code)
                            : "no reason given");
    ERR_clear_error();
    return text;
}

static const struct tls_part *
part_find(const struct tls_files *files, enum tls_part_kind kind, size_t index)
{
    for (size_t i = 0; i < files->n; i++)
        if (files->v[i].kind == kind && files->v[i].index == index)
            return &files->v[i];
    return NULL;
}

/* "2026-01-31 12:00 UTC". */
static const char *
date_text(const ASN1_TIME *t, char *out, size_t size)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(t, &tm) != 1 || strftime(out, size, "%F %H:%M UTC", &tm) == 0)
        snprintf(out, size, "an unreadable date");
    return out;
}

/* Seconds since 1970, or 0. */
static int64_t
seconds_of(const ASN1_TIME *t)
{
    struct tm tm;
    return t != NULL && ASN1_TIME_to_tm(t, &tm) == 1 ? timegm(&tm) : 0;
}

/* --- names --------------------------------------------------------------------------------------- */

static int
name_compare(const void *a, const void *b)
{
    return strcmp(((const struct tls_name *)a)->name, ((const struct tls_name *)b)->name);
}

static SSL_CTX *
name_find(const struct tls_set *set, const char *name)
{
    const struct tls_name *found = bsearch(&(struct tls_name){ .name = name }, set->names,
                                           set->names_n, sizeof(*set->names), name_compare);
    return found == NULL ? NULL : found->ctx;
}

/* SSL_CTX_set_tlsext_servername_callback(3): names that nobody knows get the first certificate. */
static int
on_name(SSL *ssl, int *alert, void *arg)
{
    const struct tls_set *set = arg;
    const char *asked = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    char name[NAME_ROOM];
    (void)alert;
    if (asked == NULL || strlen(asked) >= sizeof(name))
        return SSL_TLSEXT_ERR_NOACK;
    size_t n = 0;
    for (; asked[n] != '\0'; n++)
        name[n] = (char)tolower((unsigned char)asked[n]);
    if (n > 0 && name[n - 1] == '.')
        n--;
    name[n] = '\0';
    SSL_CTX *ctx = name_find(set, name);
    char *dot = strchr(name, '.');
    if (ctx == NULL && dot != NULL && dot > name) {
        dot[-1] = '*'; /* RFC 6125: a wildcard stands for one whole label */
        ctx = name_find(set, dot - 1);
    }
    if (ctx == NULL)
        return SSL_TLSEXT_ERR_NOACK;
    if (ctx != SSL_get_SSL_CTX(ssl))
        SSL_set_SSL_CTX(ssl, ctx);
    return SSL_TLSEXT_ERR_OK;
}

static int
name_add(struct tls_set *set, const unsigned char *text, int n, SSL_CTX *ctx)
{
    if (text == NULL || n <= 0 || n >= NAME_ROOM || memchr(text, '\0', (size_t)n) != NULL ||
        set->names_n >= NAMES_MAX)
        return 0;
    char *name = strndup((const char *)text, (size_t)n);
    struct tls_name *v =
        name == NULL ? NULL : reallocarray(set->names, set->names_n + 1, sizeof(*v));
    if (v == NULL) {
        free(name);
        return -ENOMEM;
    }
    for (char *p = name; *p != '\0'; p++)
        *p = (char)tolower((unsigned char)*p);
    set->names = v;
    for (size_t i = 0; i < set->names_n; i++)
        if (strcmp(v[i].name, name) == 0) { /* the first certificate that has a name keeps it */
            free(name);
            return 0;
        }
    v[set->names_n++] = (struct tls_name){ .name = name, .ctx = ctx };
    return 0;
}

/* The DNS names among the subject's alternative names; where there are none, its common name. */
static int
names_add(struct tls_set *set, X509 *x509, SSL_CTX *ctx)
{
    GENERAL_NAMES *all = X509_get_ext_d2i(x509, NID_subject_alt_name, NULL, NULL);
    int err = 0, found = 0;
    for (int i = 0; all != NULL && i < sk_GENERAL_NAME_num(all) && err == 0; i++) {
        const GENERAL_NAME *one = sk_GENERAL_NAME_value(all, i);
        if (one->type != GEN_DNS)
            continue;
        found++;
        err = name_add(set, ASN1_STRING_get0_data(one->d.dNSName),
                       ASN1_STRING_length(one->d.dNSName), ctx);
    }
    GENERAL_NAMES_free(all);
    if (found > 0 || err < 0)
        return err;
    const X509_NAME *subject = X509_get_subject_name(x509);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (at < 0)
        return 0;
    const ASN1_STRING *cn = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
    return name_add(set, ASN1_STRING_get0_data(cn), ASN1_STRING_length(cn), ctx);
}

/* Do both have the same list of names? */
static bool
names_are_equal(X509 *a, X509 *b)
{
    int at_a = X509_get_ext_by_NID(a, NID_subject_alt_name, -1);
    int at_b = X509_get_ext_by_NID(b, NID_subject_alt_name, -1);
    if (at_a < 0 || at_b < 0)
        return at_a < 0 && at_b < 0 &&
               X509_NAME_cmp(X509_get_subject_name(a), X509_get_subject_name(b)) == 0;
    return ASN1_STRING_cmp(X509_EXTENSION_get_data(X509_get_ext(a, at_a)),
                           X509_EXTENSION_get_data(X509_get_ext(b, at_b))) == 0;
}

/* --- callbacks of handshakes ------------------------------------------------------------------- */

/* RFC 7301: a client that speaks none of ours is told so; one that does not ask is served. */
static int
on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in,
        unsigned in_n, void *arg)
{
    static const unsigned char ours[] = "\x08http/1.1\x08http/1.0";
    (void)ssl, (void)arg;
    if (SSL_select_next_proto((unsigned char **)out, out_n, ours, sizeof(ours) - 1, in, in_n) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    return SSL_TLSEXT_ERR_OK;
}

/* SSL_CTX_set_tlsext_status_cb(3): an answer that is too old would only harm. */
static int
on_status(SSL *ssl, void *arg)
{
    const struct tls_set *set = arg;
    const X509 *ours = SSL_get_certificate(ssl);
    for (size_t i = 0; i < set->certs_n; i++) {
        const struct tls_cert *cert = &set->certs[i];
        if (cert->x509 != ours || cert->ocsp == NULL || time(NULL) >= cert->ocsp_until_s)
            continue;
        unsigned char *copy = OPENSSL_memdup(cert->ocsp, cert->ocsp_n);
        if (copy == NULL)
            break;
        SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)cert->ocsp_n); /* the library's now */
        return SSL_TLSEXT_ERR_OK;
    }
    return SSL_TLSEXT_ERR_NOACK;
}

/* --- contexts ------------------------------------------------------------------------------------ */

/* Those of TLS 1.3 are another list for the library, but one for us. Returns 0 or -1. */
static int
ciphers_set(SSL_CTX *ctx, const char *text)
{
    BUF_OWNED struct buf old = { 0 }, new = { 0 };
    for (const char *p = text; p != NULL && *p != '\0';) {
        size_t n = strcspn(p, ":, ");
        struct buf *b = strncmp(p, "TLS_", 4) == 0 ? &new : &old;
        if (n > 0 && buf_printf(b, "%s%.*s", b->n > 0 ? ":" : "", (int)n, p) < 0)
            return -1;
        p += n + strspn(p + n, ":, ");
    }
    if (SSL_CTX_set_cipher_list(ctx, old.n > 0 ? old.p : CIPHERS) != 1)
        return -1;
    return SSL_CTX_set_ciphersuites(ctx, new.n > 0 ? new.p : CIPHERS_1_3) == 1 ? 0 : -1;
}

static void
tickets_set(SSL_CTX *ctx, const struct making *m)
{
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"ringcorn", 8);
    /* Clients with certificates show them each time: a resumed session would be let in by what was
     * true when it began, and bring a part of its chain only. */
    if (m->set->tickets == NULL || m->conf->tls_client_verify != CONF_CLIENT_NONE) {
        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
        SSL_CTX_set_num_tickets(ctx, 0);
        return;
    }
    SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, tls_tickets_seal);
    SSL_CTX_set_num_tickets(ctx, 0); /* that of TLS 1.3 goes with the first answer (tls.c) */
    SSL_CTX_set_timeout(ctx, (long)(m->conf->tls_ticket_rotation_ms + 999) / 1000);
}

/* Every certificate in a PEM text: calls add for each. Returns how many, or -1. */
static int
each_cert(const struct tls_part *part, int (*add)(void *arg, X509 *x509), void *arg)
{
    BIO *bio = BIO_new_mem_buf(part->p, (int)part->n);
    int n = 0;
    for (X509 *x509; bio != NULL && (x509 = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL;
         n++) {
        int err = add(arg, x509);
        X509_free(x509);
        if (err < 0) {
            BIO_free(bio);
            return -1;
        }
    }
    bool is_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    BIO_free(bio);
    if (!is_end)
        return -1;
    ERR_clear_error();
    return n;
}

static int
client_ca_add(void *arg, X509 *x509)
{
    SSL_CTX *ctx = arg;
    return X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), x509) == 1 &&
                   SSL_CTX_add_client_CA(ctx, x509) == 1
               ? 0
               : -1;
}

static int
crls_add(SSL_CTX *ctx, const struct making *m, const struct tls_part *part)
{
    char text[ERROR_ROOM], date[64];
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    BIO *bio = BIO_new_mem_buf(part->p, (int)part->n);
    int n = 0, err = 0;
    for (X509_CRL *crl;
         bio != NULL && err == 0 && (crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL)) != NULL;
         n++) {
        const ASN1_TIME *next = X509_CRL_get0_nextUpdate(crl);
        if (next != NULL && X509_cmp_current_time(next) < 0 && m->warns)
            log_warning(
                "tls.crl: a list in %s was to be renewed by %s: clients of that authority are "
                "refused until it is",
                m->conf->tls_crl, date_text(next, date, sizeof(date)));
        err = X509_STORE_add_crl(store, crl) == 1 ? 0 : -1;
        X509_CRL_free(crl);
    }
    BIO_free(bio);
    if (n == 0 || err < 0) {
        m->say("tls.crl: there is no revocation list in PEM in %s (-----BEGIN X509 CRL-----): %s",
               m->conf->tls_crl, tls_error(text, sizeof(text)));
        return -1;
    }
    ERR_clear_error();
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    return 0;
}

static int
clients_set(SSL_CTX *ctx, const struct making *m)
{
    const struct tls_part *ca = part_find(m->files, TLS_CA, 0),
                          *crl = part_find(m->files, TLS_CRL, 0);
    if (m->conf->tls_client_verify == CONF_CLIENT_NONE || ca == NULL)
        return 0;
    if (each_cert(ca, client_ca_add, ctx) <= 0) {
        char text[ERROR_ROOM];
        m->say("tls.client_ca: the certificates in %s cannot be used: %s", m->conf->tls_client_ca,
               tls_error(text, sizeof(text)));
        return -1;
    }
    bool is_required = m->conf->tls_client_verify == CONF_CLIENT_REQUIRED;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (is_required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                       NULL);
    return crl == NULL ? 0 : crls_add(ctx, m, crl);
}

/* All but the certificate. */
static SSL_CTX *
context_new(const struct making *m)
{
    char text[ERROR_ROOM];
    OSSL_LIB_CTX *lib = tls_lib();
    SSL_CTX *ctx = SSL_CTX_new_ex(lib, lib == NULL ? NULL : TLS_PROPERTIES, TLS_server_method());
    if (ctx == NULL) {
        m->say("TLS cannot be set up: %s", tls_error(text, sizeof(text)));
        return NULL;
    }
    SSL_CTX_set_app_data(ctx, m->set);
    SSL_CTX_set_min_proto_version(ctx, m->conf->tls_min_version == CONF_TLS_1_3 ? TLS1_3_VERSION
                                                                                : TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    /* No partial writes: one SSL_write() makes all the records of a send. And no search for more of a
     * chain than the file has, which each handshake would make anew. */
    SSL_CTX_set_mode(ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_read_ahead(ctx, 1); /* a record, or several, by one recv() */
    SSL_CTX_set_dh_auto(ctx, 1);
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
    SSL_CTX_set_tlsext_servername_callback(ctx, on_name);
    SSL_CTX_set_tlsext_servername_arg(ctx, m->set);
    SSL_CTX_set_tlsext_status_cb(ctx, on_status);
    SSL_CTX_set_tlsext_status_arg(ctx, m->set);
    tickets_set(ctx, m);
    if (ciphers_set(ctx, m->conf->tls_ciphers) < 0)
        m->say(
            "tls.ciphers: '%s' names no cipher that can be used (%s); `openssl ciphers` lists them",
            m->conf->tls_ciphers != NULL ? m->conf->tls_ciphers : CIPHERS,
            tls_error(text, sizeof(text)));
    else if (clients_set(ctx, m) == 0)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

/* --- certificates ---------------------------------------------------------------------------------- */

struct chain {
    X509 *leaf; /* new */
    STACK_OF(X509) * rest;
};

static int
chain_add(void *arg, X509 *x509)
{
    struct chain *chain = arg;
    X509_up_ref(x509);
    if (chain->leaf == NULL) {
        chain->leaf = x509;
        return 0;
    }
    if (chain->rest == NULL)
        chain->rest = sk_X509_new_null();
    if (chain->rest != NULL && sk_X509_push(chain->rest, x509) > 0)
        return 0;
    X509_free(x509);
    return -1;
}

static void
chain_free(struct chain *chain)
{
    X509_free(chain->leaf);
    sk_X509_pop_free(chain->rest, X509_free);
}

static void
warn_of_dates(const struct making *m, const char *path, const struct chain *chain)
{
    char date[64];
    const ASN1_TIME *until = X509_get0_notAfter(chain->leaf),
                    *from = X509_get0_notBefore(chain->leaf);
    if (!m->warns)
        return;
    if (X509_cmp_current_time(until) < 0)
        log_warning(
            "tls.cert: the certificate in %s expired on %s, and clients refuse it: renew it", path,
            date_text(until, date, sizeof(date)));
    else if (X509_cmp_current_time(from) > 0)
        log_warning(
            "tls.cert: the certificate in %s is good from %s on only, and clients refuse it "
            "until then; is the clock right?",
            path, date_text(from, date, sizeof(date)));
}

/* The context of an earlier certificate that this one can join: the same names, another kind of
 * key. NULL: none. */
static SSL_CTX *
partner_of(const struct tls_set *set, const struct chain *chain, const EVP_PKEY *key)
{
    for (size_t i = 0; i < set->certs_n; i++) {
        const struct tls_cert *other = &set->certs[i];
        if (EVP_PKEY_get_base_id(X509_get0_pubkey(other->x509)) != EVP_PKEY_get_base_id(key) &&
            names_are_equal(other->x509, chain->leaf))
            return other->ctx;
    }
    return NULL;
}

/* Puts certificate i and its key into a context. Returns 0 or -1, said. */
static int
cert_use(const struct making *m, size_t i, const struct chain *chain, EVP_PKEY *key)
{
    const struct conf *conf = m->conf;
    const char *path = conf->tls_cert.v[i],
               *key_path = conf->tls_key.n > 0 ? conf->tls_key.v[i] : path;
    char text[ERROR_ROOM];
    if (X509_check_private_key(chain->leaf, key) != 1) {
        ERR_clear_error();
        m->say(
            "tls.key: the key in %s does not belong to the (first) certificate in %s; name the two "
            "that were made together, in the same order, and put the server's own certificate in "
            "front of its chain",
            key_path, path);
        return -1;
    }
    SSL_CTX *ctx = partner_of(m->set, chain, key);
    if (ctx != NULL)
        SSL_CTX_up_ref(ctx);
    else if ((ctx = context_new(m)) == NULL)
        return -1;
    if (SSL_CTX_use_certificate(ctx, chain->leaf) != 1 || SSL_CTX_use_PrivateKey(ctx, key) != 1 ||
        (chain->rest != NULL && SSL_CTX_set1_chain(ctx, chain->rest) != 1)) {
        m->say("tls.cert: the certificate in %s cannot be used: %s", path,
               tls_error(text, sizeof(text)));
        SSL_CTX_free(ctx);
        return -1;
    }
    X509_up_ref(chain->leaf);
    m->set->certs[m->set->certs_n++] = (struct tls_cert){ .ctx = ctx, .x509 = chain->leaf };
    if (names_add(m->set, chain->leaf, ctx) < 0) {
        m->say("tls.cert: %s: no memory", path);
        return -1;
    }
    return 0;
}

static int
cert_add(const struct making *m, size_t i)
{
    const char *path = m->conf->tls_cert.v[i];
    const struct tls_part *cert = part_find(m->files, TLS_CERT, i),
                          *secret = part_find(m->files, TLS_KEY, i);
    struct chain chain = { 0 };
    char text[ERROR_ROOM];
    if (cert == NULL || secret == NULL) {
        m->say("tls.cert: %s was not read", path);
        return -1;
    }
    int n = each_cert(cert, chain_add, &chain), result = -1;
    const unsigned char *p = secret->p;
    EVP_PKEY *key = d2i_AutoPrivateKey_ex(NULL, &p, (long)secret->n, tls_lib(), NULL);
    if (n < 0 || key == NULL)
        m->say("tls.cert: %s is damaged: %s", path, tls_error(text, sizeof(text)));
    else if (n == 0)
        m->say("tls.cert: there is no certificate in PEM in %s (-----BEGIN CERTIFICATE-----)",
               path);
    else
        result = cert_use(m, i, &chain, key);
    if (result == 0)
        warn_of_dates(m, path, &chain);
    EVP_PKEY_free(key);
    chain_free(&chain);
    return result;
}

/* --- OCSP ------------------------------------------------------------------------------------------ */

static struct tls_cert *
cert_of_serial(const struct tls_set *set, const ASN1_INTEGER *serial)
{
    for (size_t i = 0; i < set->certs_n; i++)
        if (ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(set->certs[i].x509)) == 0)
            return &set->certs[i];
    return NULL;
}

/* Finds out which certificate an answer is about, by its serial number. Returns 0, or why not. */
static const char *
ocsp_use(struct tls_set *set, const struct tls_part *part)
{
    const unsigned char *p = part->p;
    OCSP_RESPONSE *response = d2i_OCSP_RESPONSE(NULL, &p, (long)part->n);
    OCSP_BASICRESP *basic = response == NULL ? NULL : OCSP_response_get1_basic(response);
    const char *why = "it is no OCSP answer in DER that says anything";
    for (int i = 0; basic != NULL && i < OCSP_resp_count(basic); i++) {
        OCSP_SINGLERESP *one = OCSP_resp_get0(basic, i);
        ASN1_INTEGER *serial = NULL;
        ASN1_GENERALIZEDTIME *next = NULL;
        (void)OCSP_id_get0_info(NULL, NULL, NULL, &serial,
                                (OCSP_CERTID *)OCSP_SINGLERESP_get0_id(one));
        struct tls_cert *cert = serial == NULL ? NULL : cert_of_serial(set, serial);
        if (cert == NULL) {
            why = "it is about none of our certificates";
            continue;
        }
        int status = OCSP_single_get0_status(one, NULL, NULL, NULL, &next);
        int64_t until_s = next == NULL ? INT64_MAX : seconds_of(next);
        if (status != V_OCSP_CERTSTATUS_GOOD)
            why = "it says that the certificate is not good: replace the certificate";
        else if (until_s <= time(NULL))
            why = "it is too old and not stapled: fetch another";
        else if (cert->ocsp != NULL)
            why = "another file is about the same certificate";
        else if ((cert->ocsp = malloc(part->n)) == NULL)
            why = "no memory";
        else {
            memcpy(cert->ocsp, part->p, part->n);
            cert->ocsp_n = part->n;
            cert->ocsp_until_s = until_s;
            why = NULL;
        }
        break;
    }
    OCSP_BASICRESP_free(basic);
    OCSP_RESPONSE_free(response);
    ERR_clear_error();
    return why;
}

/* Handshakes go without what cannot be stapled, so that is a warning. */
static void
ocsp_add(const struct making *m)
{
    for (size_t i = 0; i < m->conf->tls_ocsp.n; i++) {
        const struct tls_part *part = part_find(m->files, TLS_OCSP, i);
        const char *why = part == NULL ? "it was not read" : ocsp_use(m->set, part);
        if (why != NULL && m->warns)
            log_warning("tls.ocsp: %s: %s", m->conf->tls_ocsp.v[i], why);
    }
}

/* --- the whole -------------------------------------------------------------------------------------- */

struct tls_set *
tls_set_new(const struct conf *conf, const struct tls_files *files, struct tls_tickets *tickets,
            tls_say_fn say, bool warns)
{
    struct tls_set *set = calloc(1, sizeof(*set));
    struct tls_cert *certs = calloc(conf->tls_cert.n, sizeof(*certs));
    if (set == NULL || certs == NULL) {
        free(set);
        free(certs);
        say("tls.cert: no memory");
        return NULL;
    }
    *set = (struct tls_set){ .tickets = tickets, .certs = certs, .refs = 1 };
    struct making m = { .set = set, .conf = conf, .files = files, .say = say, .warns = warns };
    bool is_right = true;
    for (size_t i = 0; i < conf->tls_cert.n; i++)
        is_right &= cert_add(&m, i) == 0;
    if (!is_right) {
        tls_set_free(set);
        return NULL;
    }
    if (set->names_n > 0)
        qsort(set->names, set->names_n, sizeof(*set->names), name_compare);
    ocsp_add(&m);
    return set;
}

void
tls_set_free(struct tls_set *set)
{
    if (set == NULL || --set->refs > 0)
        return;
    for (size_t i = 0; i < set->certs_n; i++) {
        SSL_CTX_free(set->certs[i].ctx);
        X509_free(set->certs[i].x509);
        free(set->certs[i].ocsp);
    }
    for (size_t i = 0; i < set->names_n; i++)
        free((char *)set->names[i].name);
    free(set->certs);
    free(set->names);
    free(set);
}

size_t
tls_set_ending(const struct tls_set *set, int64_t before_s, size_t *index, int64_t *ends_s)
{
    size_t n = 0;
    for (size_t i = 0; i < set->certs_n; i++) {
        struct tm tm;
        if (ASN1_TIME_to_tm(X509_get0_notAfter(set->certs[i].x509), &tm) != 1)
            continue;
        int64_t ends = timegm(&tm);
        if (ends >= before_s)
            continue;
        if (n++ == 0 || ends < *ends_s) {
            *index = i;
            *ends_s = ends;
        }
    }
    return n;
}

int
tls_load(const struct conf *conf, struct tls_tickets *tickets, tls_say_fn say, struct tls_set **out,
         struct tls_files *files)
{
    struct tls_files read;
    if (tls_files_read(conf, say, &read) < 0)
        return -1;
    struct tls_set *set = tls_set_new(conf, &read, tickets, say, true);
    if (set == NULL || files == NULL)
        tls_files_free(&read);
    if (set == NULL)
        return -1;
    if (files != NULL)
        *files = read;
    *out = set;
    return 0;
}

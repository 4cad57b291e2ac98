/* test_tls.c: TLS below the C application, with OpenSSL as the client: what is made of many small and
 * of lent pieces, back-pressure, ends, a change of certificates under open connections; tickets under
 * the keys of several sets and their rotation; files packed and unpacked. */
#include "http_fixture.h"

#include <netinet/in.h>
#include <openssl/kdf.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "net/tls_private.h"

#define H "Host: x\r\n"

static char folder[] = "/tmp/ringcorn-test-XXXXXX";
static char cert_path[64], key_path[64];
static struct conf conf;
static unsigned faults;

static void
note_fault(const char *format, ...)
{
    (void)format;
    faults++;
}

static EVP_PKEY *
write_key(const char *path)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    FILE *f = fopen(path, "w");
    PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    return key;
}

/* A certificate signed by its own key. */
static void
write_pair(long serial)
{
    EVP_PKEY *key = write_key(key_path);
    X509 *x = X509_new();
    X509_set_version(x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x), serial);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               (const unsigned char *)"localhost", -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(x));
    X509_sign(x, key, EVP_sha256());
    FILE *f = fopen(cert_path, "w");
    PEM_write_X509(f, x);
    fclose(f);
    X509_free(x);
    EVP_PKEY_free(key);
}

static struct tls_set *
load_set(struct tls_tickets *tickets)
{
    struct tls_set *set = NULL;
    return tls_load(&conf, tickets, note_fault, &set, NULL) == 0 ? set : NULL;
}

/* --- a client ------------------------------------------------------------------------------------ */

struct client {
    int fd;
    SSL *ssl;
};

static SSL_CTX *client_ctx;

/* Keeps the ticket of TLS 1.3, which comes behind the handshake. */
static SSL_SESSION *last_session;

static int
on_session(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(last_session);
    last_session = session;
    return 1;
}

/* Runs the server until the library goes on. False: it failed, or time is up. */
static bool
client_wait(struct fix *f, struct client *k, int result, int64_t end)
{
    int error = SSL_get_error(k->ssl, result);
    if ((error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) || clock_ns() > end)
        return false;
    fix_turn(f, 1);
    return true;
}

static bool
client_open(struct fix *f, struct client *k, SSL_SESSION *session)
{
    int64_t end = clock_ns() + FIX_WAIT_MS * NS_PER_MS;
    int result;
    k->fd = fix_connect(f);
    fix_settle(f); /* connected */
    k->ssl = SSL_new(client_ctx);
    SSL_set_fd(k->ssl, k->fd);
    if (session != NULL)
        SSL_set_session(k->ssl, session);
    while ((result = SSL_connect(k->ssl)) != 1)
        if (!client_wait(f, k, result, end))
            return false;
    return true;
}

static void
client_send(struct fix *f, struct client *k, const char *text)
{
    int64_t end = clock_ns() + FIX_WAIT_MS * NS_PER_MS;
    int result;
    while ((result = SSL_write(k->ssl, text, (int)strlen(text))) <= 0)
        if (!client_wait(f, k, result, end))
            return;
}

/* Reads n bytes, or less at the end. */
static size_t
client_read(struct fix *f, struct client *k, char *to, size_t n)
{
    int64_t end = clock_ns() + FIX_WAIT_MS * NS_PER_MS;
    size_t got = 0;
    while (got < n) {
        int result = SSL_read(k->ssl, to + got, (int)(n - got));
        if (result > 0)
            got += (size_t)result;
        else if (!client_wait(f, k, result, end))
            break;
    }
    return got;
}

static void
client_close(struct fix *f, struct client *k)
{
    (void)SSL_shutdown(k->ssl); /* or its session is taken for spoilt */
    SSL_free(k->ssl);
    close(k->fd);
    fix_settle(f);
}

/* --- a server ------------------------------------------------------------------------------------ */

static bool
serve(struct fix *f, enum io_backend backend, struct tls_set *set)
{
    fix_init(f);
    if (!fix_open(f, backend, AF_INET)) {
        tls_set_free(set);
        return false;
    }
    listener_close(f->listener);
    net_set_tls(&f->app.net, set, 100, 5 * NS_PER_S);
    f->listener = listener_open(&f->app.net, f->listen_fd, true);
    return f->listener != NULL;
}

static bool
is_hello(struct fix *f, struct client *k)
{
    char answer[512] = "";
    client_send(f, k, "GET /hello HTTP/1.1\r\n" H "\r\n");
    while (strstr(answer, "\r\n\r\nhello") == NULL)
        if (client_read(f, k, answer + strlen(answer), 1) != 1)
            return false;
    return strncmp(answer, "HTTP/1.1 200", 12) == 0;
}

/* --- tests --------------------------------------------------------------------------------------- */

static void
test_answers(struct fix *f)
{
    static char sink[4 * 1000 * 1000];
    struct client k;
    ok(client_open(f, &k, NULL) && is_hello(f, &k), "an answer");
    ok(live.read_blocks == 0 && live.chunks == 0 && f->app.net.handshakes_n == 0,
       "nothing is held for an idle connection");
    /* Head, and a piece that is lent. */
    client_send(f, &k, "GET /held/3000000 HTTP/1.1\r\n" H "Connection: close\r\n\r\n");
    size_t n = client_read(f, &k, sink, sizeof(sink));
    const char *body = memmem(sink, n, "\r\n\r\n", 4);
    bool is_right = body != NULL && (size_t)(sink + n - body - 4) == 3000000;
    ok(is_right, "a lent body of 3 MB (%zu bytes came)", n);
    ok(SSL_get_shutdown(k.ssl) & SSL_RECEIVED_SHUTDOWN, "and close_notify behind it");
    client_close(f, &k);
}

static void
app_crumbs(struct c_req *q)
{
    size_t bad;
    h1_start(q->h, 200, NULL, 0, &bad);
    for (int i = 0; i < 100; i++) { /* copied and lent by turns: many pieces of odd sizes */
        size_t n = i == 50 ? 20000 : (size_t)(i % 7) * 100 + 1;
        char *crumb = malloc(n);
        memset(crumb, 'c', n);
        q->app->lent++;
        h1_write(q->h, crumb, n, crumb, i == 99); /* the app's release frees it */
    }
    c_end(q);
}

static void
test_crumbs(struct fix *f)
{
    static char sink[200 * 1000];
    struct client k;
    f->app.custom = app_crumbs;
    ok(client_open(f, &k, NULL), "handshake");
    client_send(f, &k, "GET /custom HTTP/1.0\r\n\r\n");
    size_t n = client_read(f, &k, sink, sizeof(sink)), sum = 0;
    for (int i = 0; i < 100; i++)
        sum += i == 50 ? 20000 : (size_t)(i % 7) * 100 + 1;
    const char *body = memmem(sink, n, "\r\n\r\n", 4);
    ok(body != NULL && (size_t)(sink + n - body - 4) == sum, "a hundred pieces are one body");
    client_close(f, &k);
}

static void
test_slow_reader(struct fix *f)
{
    struct client k;
    ok(client_open(f, &k, NULL), "handshake");
    setsockopt(k.fd, SOL_SOCKET, SO_RCVBUF, &(int){ 65536 }, sizeof(int));
    client_send(f, &k, "GET /stream HTTP/1.1\r\n" H "\r\n");
    fix_run_ms(f, 50);
    struct conn *c = CONTAINER_OF(f->app.net.conns.next, struct conn, all);
    ok(conn_is_full(c) && c->out_bytes < NET_HIGH_WATER + 64 * 1024,
       "an endless stream stops (%zu plain bytes, %zu of records)", c->out_bytes,
       c->tls->wire_bytes);
    ok(c->tls->wire_bytes <= TLS_BATCH + 8 * TLS_RECORD_EXTRA, "and so do its records");
    static char sink[1 << 20];
    ok(client_read(f, &k, sink, sizeof(sink)) == sizeof(sink), "reading makes it go on");
    client_close(f, &k);
    fix_run_ms(f, 20);
    ok(live.conns == 0 && live.chunks == 0, "it ends with its client");
}

static void
test_replaced(struct fix *f)
{
    struct client old, new;
    ok(client_open(f, &old, NULL) && is_hello(f, &old), "with the old certificate");
    write_pair(2);
    net_set_tls(&f->app.net, load_set(NULL), 100, 5 * NS_PER_S);
    ok(is_hello(f, &old), "an open connection goes on");
    ok(client_open(f, &new, NULL) && is_hello(f, &new), "a new one comes");
    X509 *x = SSL_get1_peer_certificate(new.ssl);
    ok(ASN1_INTEGER_get(X509_get_serialNumber(x)) == 2, "and gets the new certificate");
    X509_free(x);
    client_close(f, &old);
    client_close(f, &new);
}

static void
test_fini_in_a_handshake(enum io_backend backend)
{
    struct fix f;
    if (!serve(&f, backend, load_set(NULL)))
        return;
    int quiet = fix_connect(&f), begun = fix_connect(&f);
    fix_settle(&f);
    fix_send(&f, begun, "\x16\x03\x01\x02\x00\x01", 6);
    fix_run_ms(&f, 10);
    ok(f.app.net.handshakes_n == 2 && live.conns == 2, "two handshakes are under way");
    fix_close(&f, "net_fini() in handshakes");
    close(quiet);
    close(begun);
}

/* Sets of two workers, as it were, share the keys. */
static void
test_tickets(enum io_backend backend, int version)
{
    struct tls_tickets *tickets = tls_tickets_new();
    struct fix f[2];
    struct client k;
    if (!serve(&f[0], backend, load_set(tickets)) || !serve(&f[1], backend, load_set(tickets)))
        return;
    SSL_CTX_set_max_proto_version(client_ctx, version);
    ok(client_open(&f[0], &k, NULL) && is_hello(&f[0], &k) && last_session != NULL, "a ticket");
    client_close(&f[0], &k);
    SSL_SESSION *session = SSL_SESSION_dup(last_session);
    for (int rotations = 0; rotations < 3; rotations++) {
        SSL_SESSION *copy = SSL_SESSION_dup(session); /* used once, TLS 1.3 spends one */
        bool is_open = client_open(&f[1], &k, copy) && is_hello(&f[1], &k);
        ok(is_open && SSL_session_reused(k.ssl) == (rotations < 2), "after %d rotations it is %s",
           rotations, rotations < 2 ? "resumed" : "not resumed");
        client_close(&f[1], &k);
        SSL_SESSION_free(copy);
        tls_tickets_rotate(tickets);
    }
    SSL_SESSION_free(session);
    fix_close(&f[0], "first");
    fix_close(&f[1], "second");
    tls_tickets_free(tickets);
    SSL_CTX_set_max_proto_version(client_ctx, 0);
}

/* One derivation by a provider's TLS13-KDF. */
static bool
derive(OSSL_LIB_CTX *lib, const char *properties, const OSSL_PARAM *params, unsigned char *out,
       size_t n)
{
    EVP_KDF *kdf = EVP_KDF_fetch(lib, "TLS13-KDF", properties);
    EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
    bool is_done = ctx != NULL && EVP_KDF_derive(ctx, out, n, params) > 0;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return is_done;
}

/* Our way to the secrets of TLS 1.3 against the library's, over random ones. */
static void
test_secrets(void)
{
    OSSL_LIB_CTX *lib = tls_lib();
    EVP_KDF *ours = EVP_KDF_fetch(lib, "TLS13-KDF", TLS_PROPERTIES);
    const OSSL_PROVIDER *from = ours == NULL ? NULL : EVP_KDF_get0_provider(ours);
    ok(from != NULL && strcmp(OSSL_PROVIDER_get0_name(from), TLS_PROVIDER) == 0,
       "handshakes take our derivation");
    EVP_KDF_free(ours);
    static const char *const digests[] = { "SHA2-256", "SHA2-384", "SHA256" };
    static const size_t sizes[] = { 32, 48, 32 };
    unsigned char secrets[3 * 64], out[2][64];
    unsigned wrong = 0, refused = 0;
    for (unsigned i = 0; i < 600; i++) {
        size_t n = sizes[i % 3], label_n = i % 40, taken = i % 7 == 0 ? 12 : n;
        int mode = i & 1 ? EVP_KDF_HKDF_MODE_EXTRACT_ONLY : EVP_KDF_HKDF_MODE_EXPAND_ONLY;
        RAND_bytes(secrets, sizeof(secrets));
        OSSL_PARAM params[8], *p = params;
        *p++ = OSSL_PARAM_construct_int("mode", &mode);
        *p++ = OSSL_PARAM_construct_utf8_string("digest", (char *)digests[i % 3], 0);
        *p++ = OSSL_PARAM_construct_octet_string("prefix", (void *)"tls13 ", 6);
        *p++ = OSSL_PARAM_construct_octet_string("label", secrets + 128, label_n);
        if (mode == EVP_KDF_HKDF_MODE_EXPAND_ONLY || i % 4 != 1) /* else zeros stand for it */
            *p++ = OSSL_PARAM_construct_octet_string("key", secrets, i % 8 == 3 ? 64 : n);
        if (mode == EVP_KDF_HKDF_MODE_EXTRACT_ONLY && i % 8 != 5) /* the first has none before it */
            *p++ = OSSL_PARAM_construct_octet_string("salt", secrets + 64, n);
        if (mode == EVP_KDF_HKDF_MODE_EXPAND_ONLY && i % 5 != 0)
            *p++ = OSSL_PARAM_construct_octet_string("data", secrets + 64, n);
        *p = OSSL_PARAM_construct_end();
        if (mode == EVP_KDF_HKDF_MODE_EXTRACT_ONLY)
            taken = n;
        bool is_ours = derive(lib, TLS_PROPERTIES, params, out[0], taken);
        bool is_theirs = derive(NULL, "provider=default", params, out[1], taken);
        refused += !is_ours || !is_theirs;
        wrong += is_ours && is_theirs && memcmp(out[0], out[1], taken) != 0;
    }
    ok(wrong == 0 && refused == 0, "600 secrets are the library's (%u wrong, %u refused)", wrong,
       refused);
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_int("mode", &mode),
        OSSL_PARAM_construct_utf8_string("digest", (char *)"SHA2-512", 0),
        OSSL_PARAM_construct_octet_string("key", secrets, 32),
        OSSL_PARAM_construct_octet_string("label", secrets, 8),
        OSSL_PARAM_construct_end(),
    };
    ok(!derive(lib, TLS_PROPERTIES, params, out[0], 32), "no other digest");
    params[1] = OSSL_PARAM_construct_utf8_string("digest", (char *)"SHA2-256", 0);
    ok(!derive(lib, TLS_PROPERTIES, params, out[0], 33), "no more than one hash");
    params[2] = OSSL_PARAM_construct_octet_string("key", secrets, 65);
    ok(!derive(lib, TLS_PROPERTIES, params, out[0], 32), "no key longer than a block");
}

static void
test_files(void)
{
    struct tls_files files, back;
    ok(tls_files_read(&conf, note_fault, &files) == 0 && files.n == 2, "files are read");
    int fd = tls_files_pack(&files);
    ok(fd >= 0 && write(fd, "x", 1) < 0, "packed and sealed");
    ok(tls_files_unpack(fd, &back) == 0 && back.n == files.n, "unpacked");
    for (size_t i = 0; i < files.n; i++)
        ok(back.v[i].kind == files.v[i].kind && back.v[i].index == files.v[i].index &&
               back.v[i].n == files.v[i].n && memcmp(back.v[i].p, files.v[i].p, files.v[i].n) == 0,
           "part %zu is the same", i);
    struct tls_set *set = tls_set_new(&conf, &back, NULL, note_fault, false);
    ok(set != NULL, "and can be used");
    tls_set_free(set);
    tls_files_free(&files);
    tls_files_free(&back);
    close(fd);
    FILE *junk = tmpfile();
    fwrite("junk", 1, 4, junk);
    fflush(junk);
    ok(tls_files_unpack(fileno(junk), &back) < 0, "what is none is refused");
    fclose(junk);

    uint64_t stamp = tls_files_stamp(&conf);
    ok(stamp == tls_files_stamp(&conf), "a stamp stays");
    EVP_PKEY_free(write_key(key_path));
    ok(stamp != tls_files_stamp(&conf), "and changes with a file");
    faults = 0;
    ok(load_set(NULL) == NULL && faults == 1, "a key of another certificate is refused");
    write_pair(1);
}

static bool
is_all(const unsigned char *p, unsigned char with, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] == with)
        i++;
    return i == n;
}

/* Blocks that are kept hold what is asked of them, whatever was asked before. */
static void
test_memory(void)
{
    enum { BLOCKS = 400, ROUNDS = 200 * 1000 };
    static struct {
        unsigned char *p;
        size_t n;
    } v[BLOCKS];
    uint64_t x = 1;
    unsigned wrong = 0;
    tls_memory_keep();
    for (unsigned i = 0; i < ROUNDS; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        size_t k = (x >> 33) % BLOCKS, n = 1 + (x >> 13) % ((x >> 50) % 3 == 0 ? 20000 : 700);
        if (v[k].p == NULL) {
            v[k].p = OPENSSL_malloc(n);
        } else {
            wrong += !is_all(v[k].p, (unsigned char)k, v[k].n);
            if ((x >> 60) % 2 == 0) {
                OPENSSL_free(v[k].p);
                v[k].p = NULL;
                continue;
            }
            unsigned char *p = OPENSSL_realloc(v[k].p, n);
            wrong += !is_all(p, (unsigned char)k, n < v[k].n ? n : v[k].n);
            v[k].p = p;
        }
        v[k].n = n;
        memset(v[k].p, (int)k, n);
    }
    for (size_t k = 0; k < BLOCKS; k++)
        OPENSSL_free(v[k].p);
    OPENSSL_free(NULL);
    ok(wrong == 0, "every block keeps what was written to it");
    void *p = OPENSSL_malloc(333);
    OPENSSL_free(p);
    void *again = OPENSSL_malloc(333);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    ok(again == p, "the last one freed is the next one taken");
#endif
    OPENSSL_free(again);
}

int
main(void)
{
    tls_memory_prepare();
    signal(SIGPIPE, SIG_IGN);
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(cert_path, sizeof(cert_path), "%s/cert.pem", folder);
    snprintf(key_path, sizeof(key_path), "%s/key.pem", folder);
    char *certs[] = { cert_path }, *keys[] = { key_path };
    conf.tls_cert = (struct conf_strings){ certs, 1 };
    conf.tls_key = (struct conf_strings){ keys, 1 };
    conf.tls_ticket_rotation_ms = 3600 * 1000;
    write_pair(1);
    client_ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_session_cache_mode(client_ctx, SSL_SESS_CACHE_CLIENT);
    SSL_CTX_sess_set_new_cb(client_ctx, on_session);

    test_files();
    test_secrets();
    test_memory();
    static const enum io_backend backends[] = { IO_EPOLL, IO_URING };
    for (size_t i = 0; i < ARRAY_LEN(backends); i++) {
        struct fix f;
        if (!serve(&f, backends[i], load_set(NULL)))
            continue;
        test_answers(&f);
        test_crumbs(&f);
        test_slow_reader(&f);
        test_replaced(&f);
        fix_close(&f, "all");
        test_fini_in_a_handshake(backends[i]);
        test_tickets(backends[i], TLS1_2_VERSION);
        test_tickets(backends[i], TLS1_3_VERSION);
    }
    SSL_SESSION_free(last_session);
    SSL_CTX_free(client_ctx);
    unlink(cert_path);
    unlink(key_path);
    rmdir(folder);
    return tap_done();
}

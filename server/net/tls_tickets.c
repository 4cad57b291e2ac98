/* tls_tickets.c: the keys that session tickets are sealed with (RFC 5077 section 4).
 * They lie in memory that the master shares with all workers, so a session that one worker began is
 * resumed by any other, also after a reload. The master alone writes: it makes a new key every
 * tls.ticket_rotation, and the one before still opens tickets, so a ticket is good for as long as
 * that at least. Whoever steals a key reads what was sent under it by TLS 1.2, hence the rotation.
 * Readers copy under a sequence number: odd while the master writes. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/base.h"
#include "net/tls_private.h"

struct ticket_key {
    unsigned char name[16]; /* tells tickets apart; in clear on the wire */
    unsigned char aes[32];
    unsigned char hmac[32];
};

/* Looked up once; EVP_aes_256_cbc() is looked up at each use. */
static EVP_CIPHER *aes;

struct tls_tickets {
    _Atomic uint32_t sequence;
    struct ticket_key keys[2]; /* the present one, the one before */
};

struct tls_tickets *
tls_tickets_new(void)
{
    if (aes == NULL && (aes = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL)) == NULL)
        return NULL;
    struct tls_tickets *t =
        mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (t == MAP_FAILED)
        return NULL;
    (void)madvise(t, sizeof(*t), MADV_DONTDUMP);
    (void)mlock(t, sizeof(*t));
    /* Twice: the key before the first is one that nobody has seen. */
    if (tls_tickets_rotate(t) < 0 || tls_tickets_rotate(t) < 0) {
        tls_tickets_free(t);
        return NULL;
    }
    return t;
}

/* keys: not those of t. */
static void
keys_write(struct tls_tickets *t, const struct ticket_key keys[2])
{
    atomic_fetch_add(&t->sequence, 1);
    atomic_thread_fence(memory_order_release);
    memcpy(t->keys, keys, sizeof(t->keys));
    atomic_fetch_add_explicit(&t->sequence, 1, memory_order_release);
}

int
tls_tickets_rotate(struct tls_tickets *t)
{
    struct ticket_key keys[2];
    if (RAND_priv_bytes((unsigned char *)&keys[0], sizeof(keys[0])) != 1)
        return -EIO;
    keys[1] = t->keys[0];
    keys_write(t, keys);
    OPENSSL_cleanse(keys, sizeof(keys));
    return 0;
}

void
tls_tickets_protect(struct tls_tickets *t)
{
    if (t != NULL)
        (void)mprotect(t, sizeof(*t), PROT_READ);
}

void
tls_tickets_free(struct tls_tickets *t)
{
    if (t != NULL)
        munmap(t, sizeof(*t));
}

_Static_assert(sizeof((struct tls_tickets){ 0 }.keys) == TLS_TICKETS_SIZE,
               "tls.h has another size");

static void
keys_read(const struct tls_tickets *t, struct ticket_key out[2])
{
    uint32_t before;
    do {
        while ((before = atomic_load_explicit(&t->sequence, memory_order_acquire)) & 1)
            ; /* the master writes 160 bytes */
        memcpy(out, t->keys, sizeof(t->keys));
        atomic_thread_fence(memory_order_acquire);
    } while (atomic_load_explicit(&t->sequence, memory_order_relaxed) != before);
}

void
tls_tickets_copy(const struct tls_tickets *t, unsigned char out[TLS_TICKETS_SIZE])
{
    struct ticket_key keys[2];
    keys_read(t, keys);
    memcpy(out, keys, TLS_TICKETS_SIZE);
    OPENSSL_cleanse(keys, sizeof(keys));
}

void
tls_tickets_restore(struct tls_tickets *t, const unsigned char in[TLS_TICKETS_SIZE])
{
    struct ticket_key keys[2];
    memcpy(keys, in, TLS_TICKETS_SIZE);
    keys_write(t, keys);
    OPENSSL_cleanse(keys, sizeof(keys));
}

static bool
keys_use(const struct ticket_key *key, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
         const unsigned char *iv, bool is_sealing)
{
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)key->hmac, sizeof(key->hmac)),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0),
        OSSL_PARAM_construct_end(),
    };
    return EVP_CipherInit_ex(cipher, aes, NULL, key->aes, iv, is_sealing) == 1 &&
           EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* SSL_CTX_set_tlsext_ticket_key_evp_cb(3): -1 = the handshake fails, 0 = without a ticket, 1 = done,
 * 2 = opened, and the client gets a new one. */
int
tls_tickets_seal(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                 EVP_MAC_CTX *mac, int is_sealing)
{
    const struct tls_tickets *t = tls_set_of(ssl)->tickets;
    struct ticket_key keys[2];
    keys_read(t, keys);
    int result = 0;
    if (is_sealing) {
        memcpy(name, keys[0].name, sizeof(keys[0].name));
        if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(aes)) != 1)
            result = -1;
        else
            result = keys_use(&keys[0], cipher, mac, iv, true) ? 1 : -1;
    } else {
        for (int i = 0; i < 2 && result == 0; i++)
            if (CRYPTO_memcmp(name, keys[i].name, sizeof(keys[i].name)) == 0)
                result = keys_use(&keys[i], cipher, mac, iv, false) ? 1 + i : -1;
    }
    OPENSSL_cleanse(keys, sizeof(keys));
    return result;
}

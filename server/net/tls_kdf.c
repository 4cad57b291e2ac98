/* tls_kdf.c: how the secrets of TLS 1.3 are derived (RFC 8446 section 7.1), as a provider of OpenSSL's.
 * A handshake derives a dozen of them. The library's own way makes for each a context of a KDF, of a
 * MAC and of three digests by name, which took a third of what a handshake costs besides its keys and
 * its signature; the hashing itself, which stays the library's, is a tenth of that. So this is the same
 * HKDF over digests that are set up once. It is called with everything by the library, and for
 * nothing else; a unit test holds it against the library's own.
 *
 * It lives in an OSSL_LIB_CTX of ours: what Python's ssl and hashlib do is not touched. Where
 * the administrator's default is FIPS, or something is missing, there is none, and all goes the
 * library's way.
 *
 * Runs on:  the one thread that handshakes are made on; the digests' contexts are for one. */
#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/provider.h>

#include "base/base.h"
#include "net/tls_private.h"

enum {
    HASH_MAX = 48,   /* bytes of a SHA-384 */
    BLOCK_MAX = 128, /* what it takes in at a time */
    INFO_MAX = 2 + 1 + 255 + 1 + 255,
};

struct hash {
    const char *name, *other_name;
    size_t n, block;
    EVP_MD *md;
    EVP_MD_CTX *ctx;
    unsigned char of_nothing[HASH_MAX];
};

/* What the suites of TLS 1.3 use. */
static struct hash hashes[] = {
    { .name = "SHA2-256", .other_name = "SHA256", .n = 32, .block = 64 },
    { .name = "SHA2-384", .other_name = "SHA384", .n = 48, .block = 128 },
};

/* --- HKDF (RFC 5869), and HKDF-Expand-Label ------------------------------------------------------- */

/* HMAC (RFC 2104); no key is longer than a block. */
static bool
hmac(const struct hash *h, struct slice key, const void *text, size_t n, unsigned char *out)
{
    unsigned char pad[BLOCK_MAX], inner[HASH_MAX];
    if (key.n > h->block)
        return false;
    memset(pad, 0x36, h->block);
    for (size_t i = 0; i < key.n; i++)
        pad[i] ^= (unsigned char)key.p[i];
    bool is_done = EVP_DigestInit_ex2(h->ctx, h->md, NULL) == 1 &&
                   EVP_DigestUpdate(h->ctx, pad, h->block) == 1 &&
                   EVP_DigestUpdate(h->ctx, text, n) == 1 &&
                   EVP_DigestFinal_ex(h->ctx, inner, NULL) == 1;
    for (size_t i = 0; i < h->block; i++)
        pad[i] ^= 0x36 ^ 0x5c;
    is_done = is_done && EVP_DigestInit_ex2(h->ctx, h->md, NULL) == 1 &&
              EVP_DigestUpdate(h->ctx, pad, h->block) == 1 &&
              EVP_DigestUpdate(h->ctx, inner, h->n) == 1 &&
              EVP_DigestFinal_ex(h->ctx, out, NULL) == 1;
    OPENSSL_cleanse(pad, sizeof(pad));
    OPENSSL_cleanse(inner, sizeof(inner));
    return is_done;
}

/* Nothing may be at NULL, which memcpy() must not be given. */
static unsigned char *
append(unsigned char *to, struct slice s)
{
    return s.n > 0 ? mempcpy(to, s.p, s.n) : to;
}

/* The first n bytes, no more than one hash: TLS 1.3 asks for no more. */
static bool
expand_label(const struct hash *h, struct slice key, struct slice prefix, struct slice label,
             struct slice data, unsigned char *out, size_t n)
{
    unsigned char info[INFO_MAX + 1], *p = info, whole[HASH_MAX];
    if (n > h->n || prefix.n + label.n > 255 || data.n > 255)
        return false;
    *p++ = 0;
    *p++ = (unsigned char)n;
    *p++ = (unsigned char)(prefix.n + label.n);
    p = append(p, prefix);
    p = append(p, label);
    *p++ = (unsigned char)data.n;
    p = append(p, data);
    *p++ = 1; /* the first block of HKDF-Expand */
    bool is_done = hmac(h, key, info, (size_t)(p - info), whole);
    if (is_done)
        memcpy(out, whole, n);
    OPENSSL_cleanse(whole, sizeof(whole));
    return is_done;
}

/* The next secret of the schedule: the one before (salt), gone on from by a label, takes in what is
 * new (key; none is zeros). */
static bool
extract(const struct hash *h, struct slice salt, struct slice key, struct slice prefix,
        struct slice label, unsigned char *out)
{
    static const unsigned char zeros[HASH_MAX];
    unsigned char derived[HASH_MAX];
    struct slice nothing = { (const char *)h->of_nothing, h->n };
    if (salt.p != NULL) {
        if (!expand_label(h, salt, prefix, label, nothing, derived, h->n))
            return false;
        salt = (struct slice){ (const char *)derived, h->n };
    }
    bool is_done = hmac(h, salt, key.p != NULL ? (const void *)key.p : zeros,
                        key.p != NULL ? key.n : h->n, out);
    OPENSSL_cleanse(derived, sizeof(derived));
    return is_done;
}

/* --- what OpenSSL calls ------------------------------------------------------------------------------ */

static void *
kdf_new(void *provider)
{
    return provider; /* nothing is kept between calls */
}

static void
kdf_free(void *kdf)
{
    (void)kdf;
}

static const struct hash *
hash_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(hashes); i++)
        if (strcmp(name, hashes[i].name) == 0 || strcmp(name, hashes[i].other_name) == 0)
            return &hashes[i];
    return NULL;
}

static int
kdf_derive(void *kdf, unsigned char *out, size_t n, const OSSL_PARAM params[])
{
    struct slice key = { 0 }, salt = { 0 }, prefix = { 0 }, label = { 0 }, data = { 0 };
    const struct {
        const char *name;
        struct slice *to;
    } texts[] = {
        { OSSL_KDF_PARAM_KEY, &key },       { OSSL_KDF_PARAM_SALT, &salt },
        { OSSL_KDF_PARAM_PREFIX, &prefix }, { OSSL_KDF_PARAM_LABEL, &label },
        { OSSL_KDF_PARAM_DATA, &data },
    };
    const struct hash *h = NULL;
    int mode = -1;
    (void)kdf;
    for (const OSSL_PARAM *p = params; p != NULL && p->key != NULL; p++) {
        if (strcmp(p->key, OSSL_KDF_PARAM_DIGEST) == 0 && p->data_type == OSSL_PARAM_UTF8_STRING)
            h = hash_find(p->data);
        else if (strcmp(p->key, OSSL_KDF_PARAM_MODE) == 0)
            (void)OSSL_PARAM_get_int(p, &mode);
        for (size_t i = 0; i < ARRAY_LEN(texts); i++)
            if (p->data_type == OSSL_PARAM_OCTET_STRING && strcmp(p->key, texts[i].name) == 0)
                *texts[i].to = (struct slice){ p->data, p->data_size };
    }
    if (h == NULL)
        return 0;
    if (mode == EVP_KDF_HKDF_MODE_EXPAND_ONLY)
        return key.p != NULL && expand_label(h, key, prefix, label, data, out, n);
    return mode == EVP_KDF_HKDF_MODE_EXTRACT_ONLY && n == h->n &&
           extract(h, salt, key, prefix, label, out);
}

static const OSSL_DISPATCH kdf_functions[] = {
    { OSSL_FUNC_KDF_NEWCTX, (void (*)(void))kdf_new },
    { OSSL_FUNC_KDF_FREECTX, (void (*)(void))kdf_free },
    { OSSL_FUNC_KDF_DERIVE, (void (*)(void))kdf_derive },
    { 0, NULL },
};

static const OSSL_ALGORITHM kdfs[] = {
    { OSSL_KDF_NAME_TLS1_3_KDF, "provider=" TLS_PROVIDER, kdf_functions, NULL },
    { NULL, NULL, NULL, NULL },
};

static const OSSL_ALGORITHM *
provider_query(void *provider, int operation, int *no_cache)
{
    (void)provider;
    *no_cache = 0;
    return operation == OSSL_OP_KDF ? kdfs : NULL;
}

static const OSSL_DISPATCH provider_functions[] = {
    { OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))provider_query },
    { 0, NULL },
};

static int
provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
              void **provider)
{
    (void)in;
    *out = provider_functions;
    *provider = (void *)handle; /* only that it is not NULL */
    return 1;
}

/* --- the library context ------------------------------------------------------------------------------ */

static bool
hashes_open(OSSL_LIB_CTX *lib)
{
    for (size_t i = 0; i < ARRAY_LEN(hashes); i++) {
        struct hash *h = &hashes[i];
        h->md = EVP_MD_fetch(lib, h->name, NULL);
        h->ctx = EVP_MD_CTX_new();
        if (h->md == NULL || h->ctx == NULL || EVP_DigestInit_ex2(h->ctx, h->md, NULL) != 1 ||
            EVP_DigestFinal_ex(h->ctx, h->of_nothing, NULL) != 1)
            return false;
    }
    return true;
}

OSSL_LIB_CTX *
tls_lib(void)
{
    static OSSL_LIB_CTX *lib; /* these live as long as the process */
    static bool was_tried;
    if (was_tried)
        return lib;
    was_tried = true;
    OSSL_LIB_CTX *new = EVP_default_properties_is_fips_enabled(NULL) ? NULL : OSSL_LIB_CTX_new();
    if (new == NULL)
        return NULL;
    if (OSSL_PROVIDER_add_builtin(new, TLS_PROVIDER, provider_init) != 1 ||
        OSSL_PROVIDER_load(new, "default") == NULL ||
        OSSL_PROVIDER_load(new, TLS_PROVIDER) == NULL || !hashes_open(new)) {
        ERR_clear_error();
        OSSL_LIB_CTX_free(new);
        return NULL;
    }
    return lib = new;
}

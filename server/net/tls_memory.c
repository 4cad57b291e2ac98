/* tls_memory.c: what OpenSSL frees on the loop's thread is kept for its next handshake.
 *
 * A handshake allocates and frees some thousand blocks of two hundred sizes. malloc() keeps seven of a size at hand for a thread; the
 * rest it cuts out of larger ones and joins to them again, which took a tenth of a handshake's CPU. Here blocks of malloc()'s own
 * lie in one list for each of its sizes, up to KEPT_MAX bytes in all. Whether secrets are wiped is the library's affair
 * (OPENSSL_clear_free()), before and after.
 *
 * Other threads, and processes that serve no TLS, get malloc() and free() themselves. So do builds with a sanitizer, which is to see
 * every block. */
#include <malloc.h>
#include <stdlib.h>

#include <openssl/crypto.h>

#include "base/base.h"
#include "net/tls_private.h"

enum {
    STEP = 16, /* between malloc()'s sizes, each a multiple of it and half of one more */
    LEAST = STEP + STEP / 2,
    SIZES = 18 * 1024 / STEP, /* the longest record is among them */
    KEPT_MAX = 1024 * 1024,   /* bytes */
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_FOR_US = false };
#else
enum { IS_FOR_US = true };
#endif

static _Thread_local struct {
    bool is_on;
    size_t bytes;
    void *first[SIZES]; /* each begins with the next */
} kept;

/* The list whose blocks hold n bytes: of malloc()'s sizes the least that does. */
static size_t
size_of(size_t n)
{
    return n <= LEAST ? 1 : (n - STEP / 2 + STEP - 1) / STEP;
}

static void *
take(size_t n, const char *file, int line)
{
    (void)file, (void)line;
    size_t i = size_of(n);
    void *block = kept.is_on && i < SIZES ? kept.first[i] : NULL;
    if (block == NULL)
        return malloc(n);
    kept.first[i] = *(void **)block;
    kept.bytes -= malloc_usable_size(block);
    return block;
}

static void *
resize(void *block, size_t n, const char *file, int line)
{
    (void)file, (void)line;
    return realloc(block, n);
}

static void
give(void *block, const char *file, int line)
{
    (void)file, (void)line;
    size_t room = kept.is_on ? malloc_usable_size(block) : 0;
    /* Rounded down: all in a list hold what is asked of it. */
    size_t i = (room - STEP / 2) / STEP;
    if (room < LEAST || i >= SIZES || kept.bytes + room > KEPT_MAX) {
        free(block);
        return;
    }
    *(void **)block = kept.first[i];
    kept.first[i] = block;
    kept.bytes += room;
}

void
tls_memory_prepare(void)
{
    if (IS_FOR_US)
        (void)CRYPTO_set_mem_functions(take, resize, give); /* refused after the first allocation */
}

void
tls_memory_keep(void)
{
    kept.is_on = true;
}

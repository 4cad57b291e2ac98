/* fuzz_preconditions.c: any bytes as If-Match and its like, Range and Accept-Encoding of a request for a file. Each line is a header of
 * the name that its first byte chooses. What comes out must lie in the file, and no range may be empty. */
#include "http/static.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEADERS_MAX = 16 };

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {
        "range",          "if-range",          "if-match",
        "if-none-match",  "if-modified-since", "if-unmodified-since",
        "accept-encoding"
    };
    static const uint64_t sizes[] = { 0, 1, 1000, 1ULL << 40 };
    struct http_header headers[HEADERS_MAX];
    struct http_request req = { .headers = headers };
    const char *p = (const char *)data, *end = p + size;
    while (p < end && req.headers_n < HEADERS_MAX) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        const char *stop = lf != NULL ? lf : end;
        const char *name = names[(unsigned char)*p % ARRAY_LEN(names)];
        if (stop > p)
            headers[req.headers_n++] =
                (struct http_header){ slice_of(name),
                                      slice_trim((struct slice){ p + 1, (size_t)(stop - p - 1) }) };
        p = stop + 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct file_facts file = { SLICE("\"abc-1\""), 784111777, sizes[i] };
        struct byte_ranges ranges;
        int status = preconditions(&req, &file, &ranges);
        ASSERT(status == 200 || status == 206 || status == 304 || status == 412 || status == 416);
        if (status != 206)
            continue;
        ASSERT(ranges.n > 0 && ranges.n <= RANGES_MAX);
        for (unsigned k = 0; k < ranges.n; k++)
            ASSERT(ranges.v[k].n > 0 && ranges.v[k].first < file.size &&
                   ranges.v[k].n <= file.size - ranges.v[k].first);
    }
    ASSERT(codings_accepted(&req) <= (CODING_BR | CODING_GZIP));
    return 0;
}

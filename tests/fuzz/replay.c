/* replay.c: the main() of a fuzz target without a fuzzer: runs it once for each file named, or for
 * standard input. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
replay(const char *name, FILE *f)
{
    uint8_t *data = NULL;
    size_t n = 0, cap = 0;
    for (;;) {
        if (n == cap) {
            uint8_t *more = realloc(data, cap = cap > 0 ? cap * 2 : 4096);
            if (more == NULL)
                break;
            data = more;
        }
        size_t done = fread(data + n, 1, cap - n, f);
        if (done == 0)
            break;
        n += done;
    }
    if (n == cap || ferror(f)) {
        fprintf(stderr, "%s: %s\n", name, strerror(errno));
        free(data);
        return 1;
    }
    /* Exactly as large as the input, so that a read behind it is seen. */
    uint8_t *exact = malloc(n > 0 ? n : 1);
    if (exact != NULL) {
        memcpy(exact, data, n);
        LLVMFuzzerTestOneInput(exact, n);
    }
    int failed = exact == NULL;
    free(exact);
    free(data);
    return failed;
}

int
main(int argc, char **argv)
{
    int failed = argc < 2 ? replay("standard input", stdin) : 0;
    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");
        if (f == NULL) {
            fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
            failed = 1;
            continue;
        }
        failed |= replay(argv[i], f);
        fclose(f);
    }
    return failed;
}

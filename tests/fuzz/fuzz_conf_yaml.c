/* Any bytes as ringcorn.yaml: a configuration, which is then printed and read back, or faults;
 * never a crash. */
#include "conf/load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf *conf = NULL, *again = NULL;
    if (conf_load_text("fuzz.yaml", (const char *)data, size, true, &conf) < 0)
        return 0;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (f != NULL) {
        conf_print(conf, f);
        fclose(f);
        ASSERT(conf_load_text("printed.yaml", text, n, true, &again) == 0);
        ASSERT(again->binds_n == conf->binds_n && again->headers_n == conf->headers_n);
    }
    conf_free(again);
    conf_free(conf);
    free(text);
    return 0;
}

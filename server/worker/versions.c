/* versions.c: what --version says about Python and the loop. */
#include "py/py.h"

#include "worker/worker.h"

#include "io/io.h"
#include "py/embed.h"

void
worker_versions(FILE *out)
{
    char why[IO_WHY_SIZE];
    const char *name = io_probe(why);
    embed_version(out);
    fprintf(out, "io %s%s%s\n", name, why[0] != '\0' ? ": " : "", why);
}

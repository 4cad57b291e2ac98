/* assert.c: the end of a process whose state can no longer be trusted. */
#include "assert.h"

#include <stddef.h>
#include <stdlib.h>

#include "log.h"

_Noreturn void
assert_failed(const char *condition, const char *file, int line)
{
    (void)log_set_ring(NULL, -1); /* what else is in this process may be wrong too */
    log_error("internal error: %s does not hold (%s:%d); please report this line", condition, file,
              line);
    abort();
}

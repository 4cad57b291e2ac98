/* owned.h: locals that own something say so and clean up at the end of their scope; giving it up has a name. */
#ifndef RINGCORN_BASE_OWNED_H
#define RINGCORN_BASE_OWNED_H

#include <stdlib.h>
#include <unistd.h>

static inline void
owned_close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void
owned_free(void *p)
{
    free(*(void **)p);
}

#define FD_OWNED __attribute__((cleanup(owned_close_fd)))
#define MEM_OWNED __attribute__((cleanup(owned_free)))

/* Gives up a descriptor: the local is -1 from here on. */
static inline int
fd_take(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#endif

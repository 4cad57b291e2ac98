/* clock.h: monotonic time and the dates of HTTP. Any thread. */
#ifndef RINGCORN_BASE_CLOCK_H
#define RINGCORN_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_MS 1000000LL
#define NS_PER_S 1000000000LL

/* CLOCK_MONOTONIC, the clock of asyncio's loop.time() and of every deadline here. */
static inline int64_t
clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT" (IMF-fixdate, RFC 9110 section 5.6.7): 29 bytes and a NUL. */
enum { CLOCK_HTTP_DATE_SIZE = 30 };
void clock_http_date(time_t when, char out[CLOCK_HTTP_DATE_SIZE]);

#endif

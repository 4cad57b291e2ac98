/* log.c: the error log. */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LOG_LINE_MAX = 16 * 1024 }; /* a longer line is cut, and says so */

static int out_fd = STDERR_FILENO;
static enum log_level least = LOG_INFO;

void
log_set_fd(int fd)
{
    out_fd = fd;
}

int
log_fd(void)
{
    return out_fd;
}

void
log_set_level(enum log_level level)
{
    least = level;
}

bool
log_is_on(enum log_level level)
{
    return level >= least;
}

static void
write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return; /* a log that cannot be written has nowhere to say so */
        p += done;
        n -= (size_t)done;
    }
}

void
log_line(enum log_level level, const char *format, ...)
{
    static const char *const names[] = { "debug", "info", "warning", "error" };
    if (!log_is_on(level))
        return;
    int saved = errno;
    char line[LOG_LINE_MAX];
    struct tm tm;
    time_t now = time(NULL);
    localtime_r(&now, &tm);
    size_t n = strftime(line, sizeof(line), "%Y-%m-%d %H:%M:%S %z", &tm);
    n += (size_t)snprintf(line + n, sizeof(line) - n, " [%d] %s: ", (int)getpid(), names[level]);
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + n, sizeof(line) - n - 1, format, args);
    va_end(args);
    if (more > 0 && (size_t)more >= sizeof(line) - n - 1) {
        static const char cut[] = " [cut]";
        n = sizeof(line) - sizeof(cut) - 1;
        memcpy(line + n, cut, sizeof(cut) - 1);
        n += sizeof(cut) - 1;
    } else if (more > 0) {
        n += (size_t)more;
    }
    line[n++] = '\n';
    write_all(out_fd, line, n);
    errno = saved;
}

void
log_signal_safe(const char *text)
{
    write_all(out_fd, text, strlen(text));
    write_all(out_fd, "\n", 1);
}

void
log_operator(const char *format, ...)
{
    va_list args;
    char line[LOG_LINE_MAX];
    size_t n = (size_t)snprintf(line, sizeof(line), "ringcorn: ");
    va_start(args, format);
    int more = vsnprintf(line + n, sizeof(line) - n - 1, format, args);
    va_end(args);
    if (more > 0)
        n += (size_t)more < sizeof(line) - n - 1 ? (size_t)more : sizeof(line) - n - 2;
    line[n++] = '\n';
    write_all(STDERR_FILENO, line, n);
}

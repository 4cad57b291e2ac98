/* log.h: the error log. One call is one line, written by one write(2), so lines of several processes do not mix.
 *
 * A line says what happened, to what, and what to do about it:
 *     2026-01-31 12:00:00 +0000 [4711] warning: cannot accept connections: Too many open files
 * Any thread, any time except in a signal handler (log_signal_safe() is for those). */
#ifndef RINGCORN_BASE_LOG_H
#define RINGCORN_BASE_LOG_H

#include <stdbool.h>

enum log_level {
    LOG_DEBUG,
    LOG_INFO,
    LOG_WARNING,
    LOG_ERROR,
};

/* Where lines go (a descriptor that stays the caller's; standard error at first) and the least level
 * that is written (LOG_INFO at first). */
void log_set_fd(int fd);
int log_fd(void);
void log_set_level(enum log_level level);
bool log_is_on(enum log_level level);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) (log_is_on(LOG_DEBUG) ? log_line(LOG_DEBUG, __VA_ARGS__) : (void)0)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

/* Writes text and a newline; only async-signal-safe calls. */
void log_signal_safe(const char *text);

/* What the operator did wrong, before or without a running server: "ringcorn: <text>" on standard error,
 * without time and pid. */
void log_operator(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif

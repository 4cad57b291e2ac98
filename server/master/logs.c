/* logs.c: the files that log lines go to. */
#include "logs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"

void
logs_init(struct logs *l)
{
    l->access_fd = -1;
    l->saved_stderr = -1;
    l->drain = NULL;
}

void
logs_fini(struct logs *l)
{
    if (l->drain != NULL)
        log_drain_stop(l->drain);
    if (l->access_fd > STDERR_FILENO)
        close(l->access_fd);
    if (l->saved_stderr >= 0) {
        dup2(l->saved_stderr, STDERR_FILENO);
        close(l->saved_stderr);
    }
    logs_init(l);
}

/* Appending makes each line whole, whoever else writes, and lets logrotate's copytruncate work. */
static int
open_file(const char *key, const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
    if (fd < 0) {
        log_operator("%s: cannot open %s: %s", key, path, strerror(errno));
        return -EXIT_CODE_SYSTEM;
    }
    return fd;
}

static int
check_file(const char *key, const char *path)
{
    FD_OWNED int fd = path != NULL ? open_file(key, path) : -1;
    return path != NULL && fd < 0 ? fd : 0;
}

int
logs_check(const struct conf *conf)
{
    int failed = check_file("log.file", conf->log_file);
    if (conf->access_log)
        failed |= check_file("access_log.file", conf->access_log_file);
    return failed ? -EXIT_CODE_SYSTEM : 0;
}

static int
apply_log(struct logs *l, const char *path)
{
    if (path == NULL) {
        if (l->saved_stderr >= 0) {
            dup2(l->saved_stderr, STDERR_FILENO);
            close(fd_take(&l->saved_stderr));
        }
        return 0;
    }
    FD_OWNED int fd = open_file("log.file", path);
    if (fd < 0)
        return fd;
    if (l->saved_stderr < 0)
        l->saved_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    dup2(fd, STDERR_FILENO);
    return 0;
}

static int
apply_access(struct logs *l, const char *path)
{
    if (path == NULL) {
        if (l->access_fd > STDERR_FILENO)
            close(l->access_fd);
        l->access_fd = STDOUT_FILENO;
        return 0;
    }
    FD_OWNED int fd = open_file("access_log.file", path);
    if (fd < 0)
        return fd;
    if (l->access_fd > STDERR_FILENO)
        dup3(fd, l->access_fd, O_CLOEXEC);
    else
        l->access_fd = fd_take(&fd);
    return 0;
}

/* As terminals and those who use them have it: https://no-color.org */
static bool
is_coloured(const struct conf *conf)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    return conf->log_file == NULL && isatty(STDERR_FILENO) &&
           (no_color == NULL || *no_color == '\0') && term != NULL && strcmp(term, "dumb") != 0;
}

void
logs_form(const struct conf *conf, int slot)
{
    log_set_level((enum log_level)conf->log_level);
    log_set_form(conf->log_is_json, is_coloured(conf), slot);
}

int
logs_apply(struct logs *l, const struct conf *conf)
{
    int failed = apply_log(l, conf->log_file);
    if (conf->access_log) {
        failed |= apply_access(l, conf->access_log_file);
    } else {
        if (l->access_fd > STDERR_FILENO)
            close(l->access_fd);
        l->access_fd = -1;
    }
    return failed ? -EXIT_CODE_SYSTEM : 0;
}

int
logs_open(struct logs *l, const struct conf *conf)
{
    int code = logs_apply(l, conf);
    if (code < 0)
        return code;
    if (l->drain == NULL && (l->drain = log_drain_start()) == NULL) {
        log_operator("cannot start: no memory or thread for the logs");
        return -EXIT_CODE_SYSTEM;
    }
    logs_form(conf, LOG_NO_SLOT);
    log_drain_to(l->drain, STDERR_FILENO, l->access_fd);
    return 0;
}

void
logs_say(const struct logs *l, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_operator("%s", text);
    if (l->saved_stderr < 0)
        return;
    BUF_OWNED struct buf line = { 0 };
    if (buf_printf(&line, "ringcorn: %s\n", text) == 0)
        log_write_briefly(l->saved_stderr, line.p, line.n);
}

/* log.c: the error log. */
#include "log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "json.h"
#include "log_ring.h"

enum {
    MESSAGE_MAX = 16 * 1024, /* of a line of C's; a longer one is cut, and says so */
    FRAME_MAX = 512,         /* all of a line but its parts */
    MEMBERS_MAX = 4 * 1024,  /* more are left out */
    ON_STACK = 4 * 1024,     /* lines that need no memory of the heap */
    PIECE = 4096,            /* PIPE_BUF: what a pipe that polls writable takes without blocking */
    BRIEFLY_MS = 1000,
};

static int out_fd = STDERR_FILENO;
static enum log_level least = LOG_INFO;
static bool is_json, is_coloured;
static int slot = LOG_NO_SLOT;
static struct log_ring *_Atomic ring;
static int wake_fd = -1;

static const char *const level_names[] = { "debug", "info", "warning", "error" };

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

void
log_set_form(bool json, bool coloured, int worker)
{
    is_json = json;
    is_coloured = coloured;
    slot = worker;
}

void
log_set_slot(int worker)
{
    slot = worker;
}

struct log_ring *
log_set_ring(struct log_ring *to, int fd)
{
    wake_fd = fd;
    return atomic_exchange(&ring, to);
}

struct log_ring *
log_change_ring(struct log_ring *to)
{
    return atomic_exchange(&ring, to);
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
log_write_briefly(int fd, const char *p, size_t n)
{
    int64_t until_ns = clock_ns() + BRIEFLY_MS * NS_PER_MS;
    while (n > 0) {
        int64_t left_ms = (until_ns - clock_ns()) / NS_PER_MS;
        struct pollfd one = { .fd = fd, .events = POLLOUT };
        int ready = left_ms > 0 ? poll(&one, 1, (int)left_ms) : 0;
        if (ready < 0 && errno == EINTR) /* the write() might wait */
            continue;
        if (ready <= 0)
            return;
        ssize_t done = write(fd, p, n < PIECE ? n : (size_t)PIECE);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return;
        p += done;
        n -= (size_t)done;
    }
}

static void
put(enum log_kind kind, int fd, int64_t at_ns, const char *p, size_t n)
{
    struct log_ring *to = atomic_load_explicit(&ring, memory_order_acquire);
    if (to == NULL) {
        write_all(fd, p, n);
        return;
    }
    (void)log_ring_put(to, kind, at_ns, p, n); /* who empties it says what was lost */
    if (log_ring_must_wake(to))
        (void)!write(wake_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
}

void
log_access(int fd, int64_t at_ns, const char *p, size_t n)
{
    put(LOG_TO_ACCESS, fd, at_ns, p, n);
}

void
log_empty_ring(struct log_ring *from, int access_fd)
{
    struct log_taken line;
    uint64_t torn = 0;
    while (log_ring_look(from, false, &line, &torn)) {
        int fd = line.kind == LOG_TO_ACCESS ? access_fd : out_fd;
        if (fd >= 0)
            write_all(fd, line.p, line.n);
        log_ring_step(from, &line);
    }
}

/* --- one line ------------------------------------------------------------------------------------------------------------------ */

static char *
put_slice(char *p, struct slice s)
{
    memcpy(p, s.p, s.n);
    return p + s.n;
}

/* Behind something: ,"name":"text". */
static char *
put_field(char *p, const char *name, struct slice text)
{
    if (text.n == 0)
        return p;
    p += sprintf(p, ",\"%s\":\"", name);
    p = json_escape(p, text);
    *p++ = '"';
    return p;
}

static char *
put_json(char *p, const struct log_entry *e, bool is_cut)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    p = put_slice(p, SLICE("{\"time\":\""));
    p += strftime(p, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    char zone[8];
    strftime(zone, sizeof(zone), "%z", &tm);
    p += sprintf(p, ".%03d%.3s:%.2s\"", (int)(now.tv_nsec / 1000000), zone, zone + 3);
    p = put_field(p, "level", e->level);
    p += sprintf(p, ",\"pid\":%d", (int)getpid());
    if (slot != LOG_NO_SLOT)
        p += sprintf(p, ",\"worker\":%d", slot);
    p = put_field(p, "logger", e->logger);
    p = put_field(p, "message", e->message);
    if (is_cut)
        p = put_slice(p, SLICE(",\"is_cut\":true"));
    p = put_field(p, "request_id", e->request_id);
    if (e->members.n > 0) {
        *p++ = ',';
        p = put_slice(p, e->members);
    }
    p = put_field(p, "exception", e->exception);
    return put_slice(p, SLICE("}\n"));
}

/* The level's colour, as a terminal has it. */
static struct slice
colour_of(struct slice level)
{
    if (slice_is(level, "debug"))
        return SLICE("\033[36m");
    if (slice_is(level, "info"))
        return SLICE("\033[32m");
    return slice_is(level, "warning") ? SLICE("\033[33m") : SLICE("\033[31m");
}

static char *
put_text(char *p, const struct log_entry *e, bool is_cut)
{
    struct tm tm;
    time_t now = time(NULL);
    localtime_r(&now, &tm);
    p += strftime(p, 40, "%Y-%m-%d %H:%M:%S %z", &tm);
    p += sprintf(p, " [%d] ", (int)getpid());
    if (is_coloured)
        p = put_slice(p, colour_of(e->level));
    p = put_slice(p, e->level);
    if (is_coloured)
        p = put_slice(p, SLICE("\033[0m"));
    p = put_slice(put_slice(p, SLICE(": ")), e->message);
    if (is_cut)
        p = put_slice(p, SLICE(" [cut]"));
    if (e->request_id.n > 0) {
        p = put_slice(put_slice(p, SLICE(" [request ")), e->request_id);
        *p++ = ']';
    }
    *p++ = '\n';
    if (e->exception.n > 0) {
        p = put_slice(p, e->exception);
        *p++ = '\n';
    }
    return p;
}

/* Shortens a part so that the line stays one that the ring takes. */
static struct slice
within(struct slice s, size_t max)
{
    if (s.n > max)
        s.n = max;
    return s;
}

void
log_entry(const struct log_entry *entry)
{
    int saved = errno;
    size_t grows = is_json ? JSON_ESCAPED_MAX : 1;
    size_t room = (LOG_LINE_MAX - FRAME_MAX) / grows;
    struct log_entry e = *entry;
    e.level = within(e.level, 32);
    e.logger = within(e.logger, 128);
    e.request_id = within(e.request_id, 128);
    if (!is_json || e.members.n > MEMBERS_MAX) /* cut, they would be no JSON */
        e.members = (struct slice){ 0 };
    room -= e.level.n + e.logger.n + e.request_id.n + e.members.n;
    bool is_cut = e.message.n > room / 4;
    e.message = within(e.message, room / 4);
    size_t exception_max = room - room / 4;
    if (e.exception.n > exception_max) /* its end says what it was */
        e.exception =
            (struct slice){ e.exception.p + e.exception.n - exception_max, exception_max };
    size_t need = FRAME_MAX + e.members.n +
                  grows * (e.level.n + e.logger.n + e.message.n + e.request_id.n + e.exception.n);
    char on_stack[ON_STACK];
    char *heap = need > sizeof(on_stack) ? malloc(need) : NULL,
         *line = heap != NULL ? heap : on_stack;
    if (need > sizeof(on_stack) && heap == NULL) { /* better a part of it than nothing */
        e.logger = e.request_id = e.members = (struct slice){ 0 };
        e.message = within(e.message, (sizeof(on_stack) - FRAME_MAX) / (2 * JSON_ESCAPED_MAX));
        e.exception = within(e.exception, (sizeof(on_stack) - FRAME_MAX) / (3 * JSON_ESCAPED_MAX));
        is_cut = true;
    }
    char *end = is_json ? put_json(line, &e, is_cut) : put_text(line, &e, is_cut);
    put(LOG_TO_ERROR, out_fd, clock_ns(), line, (size_t)(end - line));
    free(heap);
    errno = saved;
}

static void
vlog(enum log_level level, struct slice id, const char *format, va_list args)
{
    char text[MESSAGE_MAX];
    if (!log_is_on(level))
        return;
    int saved = errno;
    int n = vsnprintf(text, sizeof(text), format, args);
    errno = saved;
    if (n < 0)
        return;
    if ((size_t)n >= sizeof(text)) {
        static const char cut[] = " [cut]";
        n = sizeof(text) - 1;
        memcpy(text + n - (sizeof(cut) - 1), cut, sizeof(cut) - 1);
    }
    log_entry(&(struct log_entry){
        .level = slice_of(level_names[level]),
        .logger = SLICE("ringcorn.error"),
        .message = { text, (size_t)n },
        .request_id = id,
    });
}

void
log_line(enum log_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vlog(level, (struct slice){ 0 }, format, args);
    va_end(args);
}

void
log_about(enum log_level level, struct slice id, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vlog(level, id, format, args);
    va_end(args);
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
    char line[MESSAGE_MAX];
    size_t n = (size_t)snprintf(line, sizeof(line), "ringcorn: ");
    va_start(args, format);
    int more = vsnprintf(line + n, sizeof(line) - n - 1, format, args);
    va_end(args);
    if (more > 0)
        n += (size_t)more < sizeof(line) - n - 1 ? (size_t)more : sizeof(line) - n - 2;
    line[n++] = '\n';
    struct log_ring *to = atomic_load_explicit(&ring, memory_order_acquire);
    if (to != NULL && slot == LOG_NO_SLOT)
        put(LOG_TO_ERROR, STDERR_FILENO, clock_ns(), line, n);
    else
        log_write_briefly(STDERR_FILENO, line, n);
}

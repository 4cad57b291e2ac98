/* ctl_ask.c: commands that are answered by workers, each for itself: their parts are gathered into one list.
 *
 * A question goes to the thread that a worker has for them (worker/answer.c), with the descriptor of a memfd; the answer is written there, so
 * that neither side waits for the other whatever its size. A worker that does not answer in time, or dies meanwhile, has an "error" in
 * place of its part. */
#include "ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "base/json.h"
#include "state.h"

enum {
    ANSWER_MS = 3000,
    PART_MAX = 16 * 1024 * 1024, /* bytes of one worker's answer */
};

/* One worker that is asked. */
struct ctl_asked {
    pid_t pid;
    unsigned slot;
    int32_t id; /* of the question */
    int fd;     /* the memfd */
    enum { ASKED, ANSWERED, SILENT } state;
    char why[128]; /* SILENT */
};

static int32_t last_id;

void
ctl_wait(struct master *m, struct ctl_job *job)
{
    list_add_tail(&m->ctl_jobs, &job->node);
}

void
ctl_ask_forget(const struct ctl_job *job)
{
    for (unsigned i = 0; i < job->asked_n; i++)
        if (job->asked[i].fd >= 0)
            close(job->asked[i].fd);
}

static void
forget(struct ctl_job *job)
{
    list_del(&job->node);
    ctl_ask_forget(job);
    advise_forget(job);
    free(job->asked);
    job->asked = NULL;
    job->asked_n = 0;
}

void
ctl_end(struct master *m, struct ctl_job *job, bool is_ok)
{
    forget(job);
    job->is_ok = is_ok;
    if (!is_ok && job->out.n == 0)
        (void)buf_puts(&job->out, "out of memory");
    job->done(m, job);
}

void
ctl_fail(struct master *m, struct ctl_job *job, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    job->out.n = 0;
    (void)buf_puts(&job->out, text);
    ctl_end(m, job, false);
}

void
ctl_abandon(struct ctl_job *job)
{
    forget(job);
}

/* The worker's own JSON, as it is: it is one of ours. Read, not mapped: a worker may make the file shorter meanwhile, and a page that is
 * gone would end us. */
static void
put_part(struct json *j, const struct ctl_asked *a)
{
    struct stat st;
    BUF_OWNED struct buf part = { 0 };
    bool is_there = fstat(a->fd, &st) == 0 && st.st_size > 0 && st.st_size <= PART_MAX &&
                    buf_reserve(&part, (size_t)st.st_size) == 0;
    ssize_t n = is_there ? pread(a->fd, part.p, (size_t)st.st_size, 0) : -1;
    if (n == st.st_size)
        json_raw(j, (struct slice){ part.p, (size_t)n });
    else
        json_null(j);
}

static bool
is_whole(const struct ctl_job *job)
{
    for (unsigned i = 0; i < job->asked_n; i++)
        if (job->asked[i].state == ASKED)
            return false;
    return true;
}

static void
finish(struct master *m, struct ctl_job *job)
{
    struct json j = json_into(&job->out);
    json_begin(&j, '[');
    for (unsigned i = 0; i < job->asked_n; i++) {
        const struct ctl_asked *a = &job->asked[i];
        json_begin(&j, '{');
        json_key(&j, "worker"), json_int(&j, a->slot);
        json_key(&j, "pid"), json_int(&j, a->pid);
        if (a->state == ANSWERED)
            json_key(&j, job->member), put_part(&j, a);
        else
            json_key(&j, "error"), json_string(&j, a->why);
        json_end(&j, '}');
    }
    json_end(&j, ']');
    ctl_end(m, job, !j.is_lost);
}

/* NULL: it has ended. */
static const struct child *
child_of(const struct master *m, pid_t pid)
{
    CHILDREN_EACH(c, m)
        if (c->pid == pid)
            return c;
    return NULL;
}

__attribute__((format(printf, 2, 3))) static void
give_up(struct ctl_asked *a, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(a->why, sizeof(a->why), format, args);
    va_end(args);
    a->state = SILENT;
}

static void
look(struct master *m, struct ctl_job *job, int64_t now_ns)
{
    bool is_late = now_ns >= job->until_ns;
    for (unsigned i = 0; i < job->asked_n; i++) {
        struct ctl_asked *a = &job->asked[i];
        if (a->state != ASKED)
            continue;
        const struct child *c = child_of(m, a->pid);
        if (c == NULL) {
            give_up(a, "it has ended");
        } else if (is_late) {
            char why[96];
            watchdog_explain(c, why, sizeof(why));
            give_up(a, "no answer in time: %s", why);
        }
    }
    if (is_whole(job))
        finish(m, job);
}

/* Sends the question; the worker writes into the memfd. */
static void
send_to(struct ctl_asked *a, const struct child *c, enum control_kind kind)
{
    a->fd = memfd_create("ringcorn-answer", MFD_CLOEXEC);
    int err = a->fd < 0 ? -errno : control_send(c->asks, kind, a->id, a->fd);
    if (err < 0)
        give_up(a, "it cannot be asked");
}

void
ctl_ask(struct master *m, struct ctl_job *job, int kind, const char *member, int slot)
{
    unsigned n = 0;
    CHILDREN_EACH(c, m)
        n += slot < 0 || c->slot == (unsigned)slot;
    job->asked = calloc(n + 1, sizeof(*job->asked));
    if (job->asked == NULL) {
        ctl_fail(m, job, "out of memory");
        return;
    }
    job->member = member;
    job->look = look;
    job->until_ns = clock_ns() + ANSWER_MS * NS_PER_MS;
    CHILDREN_EACH(c, m) {
        if (slot >= 0 && c->slot != (unsigned)slot)
            continue;
        last_id = last_id == INT32_MAX ? 1 : last_id + 1;
        struct ctl_asked *a = &job->asked[job->asked_n++];
        *a = (struct ctl_asked){ .pid = c->pid, .slot = c->slot, .id = last_id, .fd = -1 };
        if (c->pid == 0)
            give_up(a, "it is not there yet");
        else if (c->asks >= 0)
            send_to(a, c, (enum control_kind)kind);
        else
            give_up(a, "it was started without control.socket or metrics.page");
    }
    ctl_wait(m, job);
    if (is_whole(job))
        finish(m, job);
}

static void
take(struct master *m, const struct child *c, int32_t id)
{
    LIST_FOR_EACH_SAFE(node, &m->ctl_jobs) {
        struct ctl_job *job = CONTAINER_OF(node, struct ctl_job, node);
        for (unsigned i = 0; i < job->asked_n; i++) {
            struct ctl_asked *a = &job->asked[i];
            if (a->pid != c->pid || a->id != id || a->state != ASKED)
                continue;
            a->state = ANSWERED;
            if (is_whole(job))
                finish(m, job);
            return;
        }
    }
}

void
ctl_heard(struct master *m, struct child *c)
{
    for (int i = 0; i < 64; i++) { /* a mad one must not block the others */
        struct control_msg msg;
        int fd;
        int err = control_recv(c->asks, &msg, &fd);
        if (err == -EAGAIN || err == -EBADMSG)
            return;
        if (err < 0) { /* its end: the death is told elsewhere */
            ctl_unwatch(m, c);
            close(fd_take(&c->asks));
            return;
        }
        if (fd >= 0)
            close(fd);
        if (msg.kind == CONTROL_ANSWER)
            take(m, c, msg.id);
    }
}

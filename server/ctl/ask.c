/* ask.c: one exchange with a running server. */
#include "ctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "base/json.h"

enum { ANSWER_MAX = 256 * 1024 * 1024 };

int
ctl_connect(const char *path, char *why, size_t why_size)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(addr.sun_path)) {
        snprintf(why, why_size, "%s: the path is longer than unix sockets allow", path);
        return -1;
    }
    strcpy(addr.sun_path, path);
    FD_OWNED int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        snprintf(why, why_size, "%s: %s; %s", path, strerror(errno),
                 errno == EACCES ? "control.mode says who may"
                                 : "does a server with this control.socket run?");
        return -1;
    }
    return fd_take(&fd);
}

static int
send_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

/* Up to the end of a line. */
static int
read_line(int fd, struct buf *line)
{
    for (;;) {
        if (line->n > 0 && line->p[line->n - 1] == '\n')
            return 0;
        if (line->n > ANSWER_MAX || buf_reserve(line, 64 * 1024) < 0)
            return -ENOMEM;
        ssize_t n = recv(fd, line->p + line->n, 64 * 1024, 0);
        if (n == 0)
            return -ECONNRESET;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            line->n += (size_t)n;
    }
}

int
ctl_question(struct buf *out, const char *command, const char *arguments)
{
    struct json j = json_into(out);
    json_begin(&j, '{');
    json_key(&j, "version"), json_int(&j, 1);
    json_key(&j, "command"), json_string(&j, command);
    json_key(&j, "arguments"), json_raw(&j, slice_of(arguments));
    json_end(&j, '}');
    return j.is_lost || buf_puts(out, "\n") < 0 ? -ENOMEM : 0;
}

int
ctl_answer(struct json_doc *doc, const struct buf *line, struct json_ref *result, char *why,
           size_t why_size)
{
    char fault[160];
    if (json_doc_parse(doc, line->p, line->n, fault, sizeof(fault)) < 0) {
        snprintf(why, why_size, "the server's answer is not JSON: %s", fault);
        return -1;
    }
    struct json_ref root = json_doc_root(doc);
    /* Names of tasks are paths that clients have asked for. */
    const char *yaml = json_ref_text(json_ref_get(json_ref_get(root, "result"), "yaml"));
    json_doc_tame(doc, yaml != NULL);
    const char *ok = json_ref_text(json_ref_get(root, "ok"));
    if (ok == NULL || strcmp(ok, "true") != 0) {
        const char *error = json_ref_text(json_ref_get(root, "error"));
        snprintf(why, why_size, "%s", error != NULL ? error : "refused");
        return -1;
    }
    *result = json_ref_get(root, "result");
    return 0;
}

int
ctl_exchange(int fd, const char *command, const char *arguments, struct buf *line,
             struct json_doc *doc, struct json_ref *result)
{
    char why[512];
    BUF_OWNED struct buf question = { 0 };
    int err = ctl_question(&question, command, arguments);
    line->n = 0;
    if (err == 0)
        err = send_all(fd, question.p, question.n);
    if (err == 0)
        err = read_line(fd, line);
    if (err < 0) {
        log_operator("%s: the server did not answer: %s", command, strerror(-err));
        return -1;
    }
    if (ctl_answer(doc, line, result, why, sizeof(why)) < 0) {
        log_operator("%s: %s", command, why);
        return -1;
    }
    return 0;
}

/* static.c: `static`: files below a folder, answered while bytes are parsed: no Python, no GIL. Which file a path means, whether it may
 * be seen, and the answer; its bytes go by net/file.c.
 *
 * A path is taken apart here, not by the kernel: a segment that is empty, ".", ".." or begins with a dot, a backslash, a control character,
 * a slash that was escaped: none of these is ever a file's name for us. Then openat2() keeps what is opened below the folder, whatever
 * links lie there (`symlinks`); where a sandbox refuses it, each folder on the way is opened by itself, and no link is followed.
 * The folder is opened anew once a second, for it may be a link that a deployment turns to the next release.
 *
 * A request stays in hand until the last of its file is with the kernel. There is no cache of open files: opening one again costs less
 * than a tenth of an answer, and a file that was replaced would go on being served. */
#include "static.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "h1.h"
#include "status.h"

enum {
    LOOK_AGAIN_MS = 1000, /* at the folder itself */
    OPEN_TRIES = 8,       /* openat2() says EAGAIN while somebody renames folders on the way */
    HEADERS_MAX = 8,
    ETAG_SIZE = 64,
    BOUNDARY_N = 24,
};

struct map {
    const struct conf_static *conf;
    size_t route_n;
    int dir;           /* -1: it could not be opened */
    int64_t looked_ns; /* when it was */
};

struct statics {
    bool is_walked; /* openat2() is refused */
    size_t n;
    struct map v[]; /* the longest route first */
};

/* What a path leads to. */
struct found {
    int fd; /* the caller's */
    const struct mime *mime;
    const char *coding; /* of the bytes, or NULL */
    struct stat st;
};

/* --- opening ------------------------------------------------------------------------------------------------------------ */

/* The folder, or -errno. */
static int
map_dir(struct map *m, int64_t now_ns)
{
    if (LIKELY(m->dir >= 0) && now_ns - m->looked_ns < LOOK_AGAIN_MS * NS_PER_MS)
        return m->dir;
    int dir = open(m->conf->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return m->dir >= 0 && errno != ENOENT ? m->dir : -errno;
    if (m->dir >= 0)
        close(m->dir);
    m->dir = dir;
    m->looked_ns = now_ns;
    return dir;
}

enum { HOW = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY };

/* Folder by folder, no link followed. A descriptor or -errno. */
static int
open_walking(int dir, const char *name)
{
    char part[NAME_MAX + 1];
    FD_OWNED int here = -1;
    for (const char *slash; (slash = strchr(name, '/')) != NULL; name = slash + 1) {
        size_t n = (size_t)(slash - name);
        if (n >= sizeof(part))
            return -ENAMETOOLONG;
        memcpy(part, name, n);
        part[n] = '\0';
        int next =
            openat(here >= 0 ? here : dir, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0)
            return -errno;
        if (here >= 0)
            close(here);
        here = next;
    }
    int fd = openat(here >= 0 ? here : dir, name, HOW | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

static int
open_below(struct statics *s, const struct conf_static *conf, int dir, const char *name)
{
    if (conf->symlinks == CONF_SYMLINKS_ON) {
        int fd = openat(dir, name, HOW);
        return fd < 0 ? -errno : fd;
    }
    struct open_how how = {
        .flags = HOW,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS |
                   (conf->symlinks == CONF_SYMLINKS_OFF ? RESOLVE_NO_SYMLINKS : 0),
    };
    for (int i = 0; i < OPEN_TRIES && !s->is_walked; i++) {
        int fd = (int)syscall(SYS_openat2, dir, name, &how, sizeof(how));
        if (fd >= 0)
            return fd;
        if (errno != ENOSYS && errno != EPERM && errno != EAGAIN)
            return -errno;
        if (errno == EAGAIN)
            continue;
        s->is_walked = true;
        log_warning("openat2() is refused (%s), by a sandbox perhaps: symbolic links below the "
                    "folders of `static` are not followed",
                    strerror(errno));
    }
    return open_walking(dir, name);
}

/* A regular file, with *st. Or -errno, -EISDIR of a folder. */
static int
open_file(struct statics *s, struct map *m, int dir, const char *name, struct stat *st)
{
    FD_OWNED int fd = open_below(s, m->conf, dir, name);
    if (fd < 0)
        return fd;
    if (fstat(fd, st) < 0)
        return -errno;
    if (S_ISDIR(st->st_mode))
        return -EISDIR;
    if (!S_ISREG(st->st_mode))
        return -ENOENT;
    return fd_take(&fd);
}

/* The file of that name, or one of its compressed neighbours. name: room for 4 bytes more. 0 or -errno. */
static int
find(struct statics *s, struct map *m, int dir, char *name, unsigned codings, struct found *out)
{
    static const struct {
        unsigned coding;
        const char *suffix, *name;
    } neighbours[] = { { CODING_BR, ".br", "br" }, { CODING_GZIP, ".gz", "gzip" } };
    size_t n = strlen(name);
    out->mime = mime_of((struct slice){ name, n });
    for (size_t i = 0; i < ARRAY_LEN(neighbours) && m->conf->precompressed && out->mime->is_text;
         i++) {
        if (!(codings & neighbours[i].coding))
            continue;
        strcpy(name + n, neighbours[i].suffix);
        out->fd = open_file(s, m, dir, name, &out->st);
        name[n] = '\0';
        if (out->fd >= 0) {
            out->coding = neighbours[i].name;
            return 0;
        }
    }
    out->coding = NULL;
    out->fd = open_file(s, m, dir, name, &out->st);
    return out->fd < 0 ? out->fd : 0;
}

/* --- answering ---------------------------------------------------------------------------------------------------------- */

/* A short text, and a header that the status asks for. */
static void
answer_text(struct h1 *h, int status, struct slice name, struct slice value)
{
    struct slice phrase = status_phrase(status);
    char text[STATUS_LINE_MAX];
    struct http_header headers[] = { { SLICE("content-type"), SLICE("text/plain; charset=utf-8") },
                                     { name, value } };
    size_t bad, n = (size_t)snprintf(text, sizeof(text), "%.*s\n", (int)phrase.n, phrase.p);
    if (h1_start(h, status, headers, name.n > 0 ? 2 : 1, &bad) == HTTP_OK)
        h1_write(h, text, n, NULL, true);
}

/* To the same path with a slash behind it, so that links in the index are right. */
static void
answer_redirect(struct h1 *h)
{
    const struct http_request *req = h1_request(h);
    struct slice path = req->path, query = req->query;
    MEM_OWNED char *to = malloc(path.n + query.n + 3);
    if (to == NULL) {
        h1_fail(h, 503);
        return;
    }
    size_t n = (size_t)sprintf(to, "%.*s/%s%.*s", (int)path.n, path.p, query.n > 0 ? "?" : "",
                               (int)query.n, query.p);
    answer_text(h, 301, SLICE("location"), (struct slice){ to, n });
}

static void
answer_error(struct h1 *h, int err)
{
    if (err == -EACCES || err == -EPERM) {
        h1_fail(h, 403);
    } else if (err == -EMFILE || err == -ENFILE || err == -ENOMEM) {
        log_error("%.*s: 503, a file cannot be opened: %s", h->r->what_n, h->r->what,
                  strerror(-err));
        h1_fail(h, 503);
    } else {
        h1_fail(h, 404);
    }
}

struct file_head {
    struct http_header v[HEADERS_MAX];
    size_t n;
};

static void
add(struct file_head *head, struct slice name, const char *value, int value_n)
{
    ASSERT(head->n < HEADERS_MAX);
    head->v[head->n++] = (struct http_header){ name, { value, (size_t)value_n } };
}

/* Several ranges of a file (RFC 9110 section 14.6), each with its own head. */
static enum http_write
answer_ranges(struct h1 *h, const struct found *f, int fd, struct file_head *head,
              const struct byte_ranges *ranges)
{
    static unsigned answers;
    char boundary[BOUNDARY_N + 1], type[80], length[24], parts[RANGES_MAX][256];
    uint64_t size = (uint64_t)f->st.st_size, total = 0;
    size_t bad;
    snprintf(boundary, sizeof(boundary), "%016llx%08x",
             (unsigned long long)clock_ns() * 0x9e3779b97f4a7c15ull, answers++);
    for (unsigned i = 0; i < ranges->n; i++)
        total += ranges->v[i].n +
                 (uint64_t)snprintf(
                     parts[i], sizeof(parts[i]),
                     "\r\n--%s\r\ncontent-type: %s\r\ncontent-range: bytes %llu-%llu/%llu\r\n\r\n",
                     boundary, f->mime->type, (unsigned long long)ranges->v[i].first,
                     (unsigned long long)(ranges->v[i].first + ranges->v[i].n - 1),
                     (unsigned long long)size);
    char end[BOUNDARY_N + 16];
    size_t end_n = (size_t)snprintf(end, sizeof(end), "\r\n--%s--\r\n", boundary);
    add(head, SLICE("content-type"), type,
        snprintf(type, sizeof(type), "multipart/byteranges; boundary=%s", boundary));
    add(head, SLICE("content-length"), length,
        snprintf(length, sizeof(length), "%llu", (unsigned long long)(total + end_n)));
    enum http_write result = h1_start(h, 206, head->v, head->n, &bad);
    for (unsigned i = 0; i < ranges->n && result >= 0; i++) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0)
            return HTTP_BROKEN; /* h1_end() closes what is not finished */
        result = h1_write(h, parts[i], strlen(parts[i]), NULL, false);
        if (result < 0)
            close(copy);
        else
            result = h1_write_file(h, copy, ranges->v[i].first, ranges->v[i].n, false);
    }
    return result < 0 ? result : h1_write(h, end, end_n, NULL, true);
}

/* fd is found->fd. */
static enum http_write
answer_file(struct h1 *h, const struct conf_static *conf, const struct found *f)
{
    FD_OWNED int fd = f->fd;
    const struct http_request *req = h1_request(h);
    char etag[ETAG_SIZE], modified[CLOCK_HTTP_DATE_SIZE], cache[32], range[80], length[24];
    uint64_t size = (uint64_t)f->st.st_size;
    struct file_head head = { .n = 0 };
    struct byte_ranges ranges;
    size_t bad;
    int etag_n = snprintf(etag, sizeof(etag), "\"%llx.%lx-%llx%s%s\"",
                          (unsigned long long)f->st.st_mtim.tv_sec,
                          (unsigned long)f->st.st_mtim.tv_nsec, (unsigned long long)size,
                          f->coding != NULL ? "-" : "", f->coding != NULL ? f->coding : "");
    struct file_facts facts = { { etag, (size_t)etag_n }, f->st.st_mtim.tv_sec, size };
    clock_http_date(f->st.st_mtim.tv_sec, modified);
    int status = preconditions(req, &facts, &ranges);
    if (status == 412) {
        answer_text(h, 412, SLICE(""), SLICE(""));
        return HTTP_OK;
    }
    if (status == 416) {
        int n = snprintf(range, sizeof(range), "bytes */%llu", (unsigned long long)size);
        answer_text(h, 416, SLICE("content-range"), (struct slice){ range, (size_t)n });
        return HTTP_OK;
    }
    add(&head, SLICE("etag"), etag, etag_n);
    add(&head, SLICE("last-modified"), modified, CLOCK_HTTP_DATE_SIZE - 1);
    if (conf->expires_ms > 0)
        add(&head, SLICE("cache-control"), cache,
            snprintf(cache, sizeof(cache), "max-age=%lld", (long long)(conf->expires_ms / 1000)));
    if (conf->precompressed && f->mime->is_text)
        add(&head, SLICE("vary"), "accept-encoding", 15);
    if (status == 304) {
        enum http_write result = h1_start(h, 304, head.v, head.n, &bad);
        return result < 0 ? result : h1_write(h, "", 0, NULL, true);
    }
    if (f->coding != NULL)
        add(&head, SLICE("content-encoding"), f->coding, (int)strlen(f->coding));
    if (status == 206 && ranges.n > 1)
        return answer_ranges(h, f, fd, &head, &ranges);
    struct byte_range whole = { 0, size };
    if (status == 206) {
        whole = ranges.v[0];
        add(&head, SLICE("content-range"), range,
            snprintf(range, sizeof(range), "bytes %llu-%llu/%llu", (unsigned long long)whole.first,
                     (unsigned long long)(whole.first + whole.n - 1), (unsigned long long)size));
    } else {
        add(&head, SLICE("accept-ranges"), "bytes", 5);
    }
    add(&head, SLICE("content-type"), f->mime->type, (int)strlen(f->mime->type));
    add(&head, SLICE("content-length"), length,
        snprintf(length, sizeof(length), "%llu", (unsigned long long)whole.n));
    enum http_write result = h1_start(h, status, head.v, head.n, &bad);
    if (result < 0)
        return result;
    return req->is_head ? h1_write(h, "", 0, NULL, true)
                        : h1_write_file(h, fd_take(&fd), whole.first, whole.n, true);
}

/* --- the path ----------------------------------------------------------------------------------------------------------- */

/* Of "/css/x.css" or "": only plain names, and perhaps a slash at the end. */
static bool
is_plain(struct slice path, bool dotfiles)
{
    for (size_t i = 0; i < path.n; i++) {
        unsigned char c = (unsigned char)path.p[i];
        if (c < ' ' || c == 0x7f || c == '\\')
            return false;
        if (c != '/' || i + 1 == path.n)
            continue;
        const char *name = path.p + i + 1;
        size_t left = path.n - i - 1;
        bool is_dots = name[0] == '.' && (left == 1 || name[1] == '/' ||
                                          (name[1] == '.' && (left == 2 || name[2] == '/')));
        if (name[0] == '/' || is_dots || (name[0] == '.' && !dotfiles))
            return false;
    }
    return true;
}

static size_t
count_slashes(struct slice s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += s.p[i] == '/';
    return n;
}

static struct map *
map_of(struct statics *s, struct slice path)
{
    for (size_t i = 0; i < s->n; i++) {
        struct map *m = &s->v[i];
        if (path.n >= m->route_n && memcmp(path.p, m->conf->route, m->route_n) == 0 &&
            (path.n == m->route_n || path.p[m->route_n] == '/'))
            return m;
    }
    return NULL;
}

/* 0 with *out, 1: a folder that wants a slash behind its name, or -errno. rest: of the path, behind the route. */
static int
look(struct h1 *h, struct map *m, struct slice rest, struct found *out)
{
    struct statics *s = h->app->own.statics;
    char name[PATH_MAX];
    bool is_folder = rest.n == 0 || rest.p[rest.n - 1] == '/';
    size_t index_n = is_folder && m->conf->index != NULL ? strlen(m->conf->index) : 0;
    if (rest.n + index_n + sizeof(".br") > sizeof(name))
        return -ENAMETOOLONG;
    if (!is_plain(rest, m->conf->dotfiles) || (is_folder && index_n == 0))
        return -ENOENT;
    if (rest.n == 0)
        return 1;
    int dir = map_dir(m, h->app->net->now_ns);
    if (dir < 0)
        return dir;
    memcpy(name, rest.p + 1, rest.n - 1);
    if (index_n > 0)
        memcpy(name + rest.n - 1, m->conf->index, index_n);
    name[rest.n - 1 + index_n] = '\0';
    int err = find(s, m, dir, name, codings_accepted(h1_request(h)), out);
    return err == -EISDIR ? (is_folder || m->conf->index == NULL ? -ENOENT : 1) : err;
}

bool
h1_answer_static(struct h1 *h)
{
    const struct http_request *req = h1_request(h);
    char plain[PATH_MAX];
    struct slice path = req->path;
    bool is_escaped = memchr(path.p, '%', path.n) != NULL;
    if (path.n == 0 || path.p[0] != '/')
        return false;
    if (is_escaped && path.n <= sizeof(plain))
        path = (struct slice){ plain, http_unescape(plain, path) };
    struct map *m = map_of(h->app->own.statics, path);
    if (LIKELY(m == NULL))
        return false;
    bool is_get = req->is_head || slice_is(req->method, "GET");
    if (!is_get && m->conf->fallthrough)
        return false;
    enum http_write result = HTTP_OK;
    struct found found;
    int err = -ENOENT; /* what was not unescaped, or has an escaped slash, is no name */
    if (!is_get)
        answer_text(h, 405, SLICE("allow"), SLICE("GET, HEAD"));
    else if (!is_escaped || (path.p == plain && count_slashes(path) == count_slashes(req->path)))
        err = look(h, m, (struct slice){ path.p + m->route_n, path.n - m->route_n }, &found);
    if (is_get && err < 0 && m->conf->fallthrough)
        return false;
    if (is_get && err < 0)
        answer_error(h, err);
    else if (is_get && err == 1)
        answer_redirect(h);
    else if (is_get)
        result = answer_file(h, m->conf, &found);
    if (result == HTTP_FULL) {
        h->r->is_static = true; /* h1.c ends it when the rest is sent, or the connection breaks */
        h1_head_done(h);
    } else {
        h1_end(h);
    }
    return true;
}

/* --- the table ---------------------------------------------------------------------------------------------------------- */

static int
by_length(const void *a, const void *b)
{
    size_t x = ((const struct map *)a)->route_n, y = ((const struct map *)b)->route_n;
    return x > y ? -1 : x < y;
}

int
statics_init(struct http_app *app)
{
    const struct conf *conf = app->conf;
    if (conf->statics_n == 0)
        return 0;
    struct statics *s = calloc(1, sizeof(*s) + conf->statics_n * sizeof(s->v[0]));
    if (s == NULL)
        return -ENOMEM;
    s->n = conf->statics_n;
    for (size_t i = 0; i < s->n; i++) {
        s->v[i] = (struct map){ .conf = &conf->statics[i],
                                .route_n = strlen(conf->statics[i].route),
                                .dir = -1 };
        int err = map_dir(&s->v[i], clock_ns());
        if (err < 0)
            log_warning("static: %s: %s; nothing is found there until it can be opened",
                        conf->statics[i].dir, strerror(-err));
    }
    qsort(s->v, s->n, sizeof(s->v[0]), by_length);
    app->own.statics = s;
    return 0;
}

void
statics_fini(struct http_app *app)
{
    struct statics *s = app->own.statics;
    for (size_t i = 0; s != NULL && i < s->n; i++)
        if (s->v[i].dir >= 0)
            close(s->v[i].dir);
    free(s);
    app->own.statics = NULL;
}

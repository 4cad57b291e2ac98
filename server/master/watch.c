/* watch.c: reload.enabled: a change of the application's files replaces the workers, as SIGHUP does.
 *
 * inotify watches folders, one each, so every folder below reload.dirs is told to it, and new ones when they appear. Not looked into:
 * what reload.exclude matches, hidden folders, virtual environments, folders behind symbolic links. Writes of an editor or of git
 * come in bursts: the reload begins when reload.delay has passed without another.
 * Owns:  the descriptor and the paths. */
#include "watch.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

enum {
    FOLDERS_MAX = 8192, /* fs.inotify.max_user_watches is that on old kernels */
    DEPTH_MAX = 32,
};

struct folder {
    int wd;
    char *path;
};

struct watch {
    int fd;
    const struct conf *conf; /* borrowed: outlives it */
    struct folder *folders;
    size_t folders_n;
    bool is_full;   /* said that not all can be watched */
    int64_t due_ns; /* 0 = nothing has changed */
    char *what;     /* the first file that did */
};

static bool
is_among(const struct conf_strings *patterns, const char *path, const char *name)
{
    for (size_t i = 0; i < patterns->n; i++)
        if (fnmatch(patterns->v[i], name, 0) == 0 || fnmatch(patterns->v[i], path, 0) == 0)
            return true;
    return false;
}

static bool
is_excluded(const struct watch *w, const char *path, const char *name)
{
    return name[0] == '.' || strcmp(name, "__pycache__") == 0 ||
           is_among(&w->conf->reload_exclude, path, name);
}

static bool
is_watched(const struct watch *w, const char *path, const char *name)
{
    return !is_excluded(w, path, name) &&
           (fnmatch("*.py", name, 0) == 0 || is_among(&w->conf->reload_include, path, name));
}

static void
note(struct watch *w, const char *path)
{
    w->due_ns = clock_ns() + w->conf->reload_delay_ms * NS_PER_MS;
    if (w->what == NULL)
        w->what = strdup(path);
}

static void
say_full(struct watch *w, const char *why)
{
    if (!w->is_full)
        log_warning("reload: not every folder can be watched: %s; name fewer (reload.dirs), or "
                    "leave some out (reload.exclude)",
                    why);
    w->is_full = true;
}

/* Watches a folder. Returns whether it is to be looked into. */
static bool
add(struct watch *w, const char *path)
{
    if (w->folders_n == FOLDERS_MAX) {
        say_full(w, "there are too many");
        return false;
    }
    int wd = inotify_add_watch(w->fd, path,
                               IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE |
                                   IN_DELETE | IN_ONLYDIR | IN_EXCL_UNLINK);
    if (wd < 0) {
        if (errno == ENOSPC)
            say_full(w, "fs.inotify.max_user_watches is reached");
        else if (errno != ENOENT && errno != ENOTDIR)
            log_warning("reload: cannot watch %s: %s", path, strerror(errno));
        return false;
    }
    for (size_t i = 0; i < w->folders_n; i++)
        if (w->folders[i].wd == wd)
            return false; /* below two of reload.dirs */
    struct folder *v = realloc(w->folders, (w->folders_n + 1) * sizeof(*v));
    if (v == NULL)
        return false;
    w->folders = v;
    if ((v[w->folders_n].path = strdup(path)) == NULL)
        return false;
    v[w->folders_n++].wd = wd;
    return true;
}

/* is_new: what lies in it has changed, too. */
static void
add_tree(struct watch *w, const char *path, int depth, bool is_new)
{
    char below[4096];
    struct stat st;
    if (snprintf(below, sizeof(below), "%s/pyvenv.cfg", path) < (int)sizeof(below) &&
        stat(below, &st) == 0)
        return;
    if (depth > DEPTH_MAX || !add(w, path))
        return;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        if (e->d_name[0] == '.' ||
            snprintf(below, sizeof(below), "%s/%s", path, e->d_name) >= (int)sizeof(below) ||
            is_excluded(w, below, e->d_name) || lstat(below, &st) < 0)
            continue;
        if (S_ISDIR(st.st_mode))
            add_tree(w, below, depth + 1, is_new);
        else if (is_new && is_watched(w, below, e->d_name))
            note(w, below);
    }
    if (dir != NULL)
        closedir(dir);
}

static void
forget_folder(struct watch *w, int wd)
{
    for (size_t i = 0; i < w->folders_n; i++)
        if (w->folders[i].wd == wd) {
            free(w->folders[i].path);
            w->folders[i] = w->folders[--w->folders_n];
            return;
        }
}

static void
take(struct watch *w, const struct inotify_event *event)
{
    char path[4096];
    const char *folder = NULL;
    if (event->mask & IN_Q_OVERFLOW) {
        note(w, "(so much that the kernel lost count)");
        return;
    }
    if (event->mask & IN_IGNORED) { /* the folder is gone */
        forget_folder(w, event->wd);
        return;
    }
    for (size_t i = 0; i < w->folders_n && folder == NULL; i++)
        if (w->folders[i].wd == event->wd)
            folder = w->folders[i].path;
    if (folder == NULL || event->len == 0 ||
        snprintf(path, sizeof(path), "%s/%s", folder, event->name) >= (int)sizeof(path) ||
        is_excluded(w, path, event->name))
        return;
    if (event->mask & IN_ISDIR) {
        if (event->mask & (IN_CREATE | IN_MOVED_TO))
            add_tree(w, path, 0, true);
    } else if (!(event->mask & IN_CREATE) && is_watched(w, path, event->name)) {
        note(w, path); /* a file is created empty: its first content is told when it is closed */
    }
}

struct watch *
watch_open(const struct conf *conf)
{
    struct watch *w = calloc(1, sizeof(*w));
    if (w == NULL)
        return NULL;
    w->conf = conf;
    w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (w->fd < 0) {
        log_warning("reload: files cannot be watched: %s; SIGHUP reloads", strerror(errno));
        free(w);
        return NULL;
    }
    for (size_t i = 0; i < conf->reload_dirs.n; i++)
        add_tree(w, conf->reload_dirs.v[i], 0, false);
    if (conf->reload_dirs.n == 0) {
        add_tree(w, conf->app_dir, 0, false);
        for (size_t i = 0; i < conf->python_path.n; i++)
            add_tree(w, conf->python_path.v[i], 0, false);
    }
    log_info("reload: %zu folder%s watched", w->folders_n, w->folders_n == 1 ? " is" : "s are");
    return w;
}

void
watch_close(struct watch *w)
{
    if (w == NULL)
        return;
    close(w->fd);
    for (size_t i = 0; i < w->folders_n; i++)
        free(w->folders[i].path);
    free(w->folders);
    free(w->what);
    free(w);
}

int
watch_fd(const struct watch *w)
{
    return w != NULL ? w->fd : -1;
}

int64_t
watch_next_ns(const struct watch *w)
{
    return w != NULL ? w->due_ns : 0;
}

bool
watch_tick(struct watch *w, int64_t now_ns)
{
    _Alignas(struct inotify_event) char events[4096];
    ssize_t n;
    if (w == NULL)
        return false;
    while ((n = read(w->fd, events, sizeof(events))) > 0)
        for (const char *p = events; p < events + n;) {
            const struct inotify_event *event = (const struct inotify_event *)(const void *)p;
            take(w, event);
            p += sizeof(*event) + event->len;
        }
    if (w->due_ns == 0 || w->due_ns > now_ns)
        return false;
    log_info("%s has changed", w->what != NULL ? w->what : "a file");
    free(w->what);
    w->what = NULL;
    w->due_ns = 0;
    return true;
}

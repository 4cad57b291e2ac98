/* static.c: entries of `static`: which folder is served below which route, and how. */
#include <errno.h>
#include <sys/stat.h>

#include "conf/load.h"

enum { INDEX_MAX = 255 };

static const char *const symlink_words[] = { "off", "inside", "on" };
static const char *const names[] = { "route",    "dir",      "index",         "expires",
                                     "symlinks", "dotfiles", "precompressed", "fallthrough" };

void
static_init(struct conf_static *s)
{
    *s = (struct conf_static){ .symlinks = CONF_SYMLINKS_INSIDE, .precompressed = true };
}

void
static_free(struct conf_static *s)
{
    free(s->route);
    free(s->dir);
    free(s->index);
    *s = (struct conf_static){ 0 };
}

static int
text_set(char **to, char *text)
{
    if (text == NULL)
        return -ENOMEM;
    free(*to);
    *to = text;
    return 0;
}

/* "/static", without a slash at its end; "" is all paths. */
static int
route_set(struct conf_static *s, const char *text, char *why, size_t size)
{
    size_t n = strlen(text);
    bool is_wrong = text[0] != '/' || strpbrk(text, "%?#\\ ") != NULL;
    while (n > 0 && text[n - 1] == '/')
        n--;
    for (const char *p = text; p < text + n && !is_wrong; p++)
        is_wrong = *p == '/' &&
                   (p[1] == '/' || (p[1] == '.' && (p[2] == '/' || p[2] == '\0' || p[2] == '.')));
    if (is_wrong) {
        snprintf(why, size,
                 "route: '%s' is wrong; expected the beginning of paths, such as /static", text);
        return -EINVAL;
    }
    return text_set(&s->route, strndup(text, n));
}

static int
index_set(struct conf_static *s, const char *text, char *why, size_t size)
{
    if (text[0] == '\0' || text[0] == '.' || strchr(text, '/') != NULL ||
        strlen(text) > INDEX_MAX) {
        snprintf(why, size, "index: '%s' is wrong; expected a file's name, such as index.html",
                 text);
        return -EINVAL;
    }
    return text_set(&s->index, strdup(text));
}

static int
bool_set(const char *name, const char *text, bool *out, char *why, size_t size)
{
    if (parse_bool(text, out))
        return 0;
    snprintf(why, size, "%s: '%s' is wrong; expected true or false", name, text);
    return -EINVAL;
}

int
static_set(struct conf_static *s, const char *name, const char *text, char *why, size_t size)
{
    if (strcmp(name, "route") == 0)
        return route_set(s, text, why, size);
    if (strcmp(name, "index") == 0)
        return index_set(s, text, why, size);
    if (strcmp(name, "dotfiles") == 0)
        return bool_set(name, text, &s->dotfiles, why, size);
    if (strcmp(name, "precompressed") == 0)
        return bool_set(name, text, &s->precompressed, why, size);
    if (strcmp(name, "fallthrough") == 0)
        return bool_set(name, text, &s->fallthrough, why, size);
    if (strcmp(name, "dir") == 0) {
        if (text[0] != '\0')
            return text_set(&s->dir, absolute_path(text));
        snprintf(why, size, "dir: is empty");
        return -EINVAL;
    }
    if (strcmp(name, "expires") == 0) {
        uint64_t ms = 0;
        if (strcasecmp(text, "off") != 0 &&
            (!parse_duration(text, &ms) || ms > STATIC_EXPIRES_MAX_MS)) {
            snprintf(why, size,
                     "expires: '%s' is wrong; expected off or a time like 30s, 5m, 1h or seconds, "
                     "up to 8760h",
                     text);
            return -EINVAL;
        }
        s->expires_ms = (int64_t)ms;
        return 0;
    }
    if (strcmp(name, "symlinks") == 0) {
        for (unsigned i = 0; i < ARRAY_LEN(symlink_words); i++)
            if (strcasecmp(text, symlink_words[i]) == 0) {
                s->symlinks = (enum conf_symlinks)i;
                return 0;
            }
        snprintf(why, size, "symlinks: '%s' is wrong; expected off, inside or on", text);
        return -EINVAL;
    }
    const char *near = conf_nearest(name, names, ARRAY_LEN(names));
    if (near != NULL)
        snprintf(why, size, "%s: no such key; did you mean %s?", name, near);
    else
        snprintf(why, size,
                 "%s: no such key; there are route, dir, index, expires, symlinks, dotfiles, "
                 "precompressed and fallthrough",
                 name);
    return -EINVAL;
}

int
static_parse(const char *text, struct conf_static *out, char *why, size_t size)
{
    const char *sign = strchr(text, '=');
    struct conf_static s;
    static_init(&s);
    if (sign == NULL) {
        snprintf(why, size, "'%s' is wrong; write ROUTE=DIR, such as /static=/srv/static", text);
        return -EINVAL;
    }
    MEM_OWNED char *route = strndup(text, (size_t)(sign - text));
    int err = route == NULL ? -ENOMEM : static_set(&s, "route", route, why, size);
    if (err == 0)
        err = static_set(&s, "dir", sign + 1, why, size);
    if (err == 0)
        *out = s;
    else
        static_free(&s);
    return err;
}

const char *
static_symlinks_word(const struct conf_static *s)
{
    return symlink_words[s->symlinks];
}

void
check_statics(struct load *l, const struct where *w)
{
    const struct conf *c = l->conf;
    for (size_t i = 0; i < c->statics_n; i++) {
        const struct conf_static *s = &c->statics[i];
        struct stat st;
        for (size_t j = 0; j < i; j++)
            if (strcmp(c->statics[j].route, s->route) == 0) {
                load_error(l, w, "the route %s is there twice", s->route[0] ? s->route : "/");
                break;
            }
        if (stat(s->dir, &st) < 0)
            load_error(l, w, "%s: %s: %s", s->route[0] ? s->route : "/", s->dir, strerror(errno));
        else if (!S_ISDIR(st.st_mode))
            load_error(l, w, "%s: %s is not a folder", s->route[0] ? s->route : "/", s->dir);
    }
}

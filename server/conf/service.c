/* service.c: entries of `services`, which are functions that run beside the site, and what names a function. */
#include <errno.h>

#include "conf/load.h"

enum { SERVICE_NAME_MAX = 64 };

static const char *const scope_words[] = { "one", "worker" };
static const char *const restart_words[] = { "always", "on-failure", "never" };
static const char *const names[] = { "name", "run", "scope", "restart" };

#define NAME_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"

void
service_init(struct conf_service *s)
{
    *s = (struct conf_service){ 0 };
}

void
service_free(struct conf_service *s)
{
    free(s->name);
    free(s->run);
    *s = (struct conf_service){ 0 };
}

int
function_fault(const char *text, char *why, size_t why_size)
{
    const char *colon = strchr(text, ':');
    bool is_right = colon != NULL && colon > text && colon[1] != '\0';
    for (const char *p = text; *p != '\0' && is_right; p++)
        is_right = p == colon || *p == '.' || *p == '_' || (unsigned char)*p >= 0x80 ||
                   (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
    if (is_right)
        return 0;
    snprintf(why, why_size, "is not of the form module:function, such as mysite.hooks:start");
    return -EINVAL;
}

static int
text_set(char **to, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL)
        return -ENOMEM;
    free(*to);
    *to = copy;
    return 0;
}

/* The index of text among n words, or -1. */
static int
word_index(const char *text, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(text, words[i]) == 0)
            return (int)i;
    return -1;
}

int
service_set(struct conf_service *s, const char *name, const char *text, char *why, size_t size)
{
    char fault[128];
    int i;
    if (strcmp(name, "name") == 0) {
        if (text[0] != '\0' && text[strspn(text, NAME_CHARS)] == '\0' &&
            strlen(text) <= SERVICE_NAME_MAX)
            return text_set(&s->name, text);
        snprintf(why, size, "'%.80s' is no name; expected letters, digits, _ . and -", text);
        return -EINVAL;
    }
    if (strcmp(name, "run") == 0) {
        if (function_fault(text, fault, sizeof(fault)) == 0)
            return text_set(&s->run, text);
        snprintf(why, size, "run: '%.100s' %s", text, fault);
        return -EINVAL;
    }
    if (strcmp(name, "scope") == 0) {
        if ((i = word_index(text, scope_words, ARRAY_LEN(scope_words))) < 0) {
            snprintf(why, size, "scope: '%.80s' is wrong; expected one or worker", text);
            return -EINVAL;
        }
        s->scope = (enum conf_scope)i;
        return 0;
    }
    if (strcmp(name, "restart") == 0) {
        if ((i = word_index(text, restart_words, ARRAY_LEN(restart_words))) < 0) {
            snprintf(why, size, "restart: '%.80s' is wrong; expected always, on-failure or never",
                     text);
            return -EINVAL;
        }
        s->restart = (enum conf_restart)i;
        return 0;
    }
    const char *near = conf_nearest(name, names, ARRAY_LEN(names));
    if (near != NULL)
        snprintf(why, size, "%.80s: no such key; did you mean %s?", name, near);
    else
        snprintf(why, size, "%.80s: no such key; there are name, run, scope and restart", name);
    return -EINVAL;
}

int
service_parse(const char *text, struct conf_service *out, char *why, size_t size)
{
    const char *sign = strchr(text, '=');
    struct conf_service s;
    service_init(&s);
    if (sign == NULL) {
        snprintf(why, size,
                 "'%.100s' is wrong; write NAME=MODULE:FUNCTION, such as bot=mysite.bot:main",
                 text);
        return -EINVAL;
    }
    MEM_OWNED char *name = strndup(text, (size_t)(sign - text));
    int err = name == NULL ? -ENOMEM : service_set(&s, "name", name, why, size);
    if (err == 0)
        err = service_set(&s, "run", sign + 1, why, size);
    if (err == 0)
        *out = s;
    else
        service_free(&s);
    return err;
}

const char *
service_scope_word(const struct conf_service *s)
{
    return scope_words[s->scope];
}

const char *
service_restart_word(const struct conf_service *s)
{
    return restart_words[s->restart];
}

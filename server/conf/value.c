/* value.c: text into the fields of struct conf, by the type that the table gives a key. */
#include <ctype.h>
#include <errno.h>

#include "base/utf8.h"
#include "conf/load.h"

/* --- fields ----------------------------------------------------------------------------------- */

static void *
field(struct conf *conf, const struct key *k)
{
    return (char *)conf + k->offset;
}

char **
key_text(struct conf *conf, const struct key *k)
{
    return field(conf, k);
}

struct conf_strings *
key_texts(struct conf *conf, const struct key *k)
{
    return field(conf, k);
}

uint64_t
key_number(const struct conf *conf, const struct key *k)
{
    const char *p = (const char *)conf + k->offset;
    uint32_t four;
    uint64_t eight;
    switch (k->width) {
    case 1:
        return *(const unsigned char *)p;
    case sizeof(four):
        memcpy(&four, p, sizeof(four));
        return four;
    default:
        memcpy(&eight, p, sizeof(eight));
        return eight;
    }
}

static void
number_store(struct conf *conf, const struct key *k, uint64_t n)
{
    char *p = field(conf, k);
    uint32_t four = (uint32_t)n;
    switch (k->width) {
    case 1:
        *(bool *)p = n != 0;
        break;
    case sizeof(four):
        memcpy(p, &four, sizeof(four));
        break;
    default:
        memcpy(p, &n, sizeof(n));
    }
}

int
strings_add(struct conf_strings *list, const char *text)
{
    char **v = reallocarray(list->v, list->n + 1, sizeof(*v));
    if (v == NULL)
        return -ENOMEM;
    list->v = v;
    if ((v[list->n] = strdup(text)) == NULL)
        return -ENOMEM;
    list->n++;
    return 0;
}

void
strings_free(struct conf_strings *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->v[i]);
    free(list->v);
    *list = (struct conf_strings){ 0 };
}

void
value_free(struct conf *conf, const struct key *k)
{
    switch (k->type) {
    case KEY_TEXT:
    case KEY_PATH:
        free(*key_text(conf, k));
        *key_text(conf, k) = NULL;
        break;
    case KEY_TEXTS:
    case KEY_PATHS:
        strings_free(key_texts(conf, k));
        break;
    case KEY_BINDS:
        for (size_t i = 0; i < conf->binds_n; i++)
            bind_free(&conf->binds[i]);
        free(conf->binds);
        conf->binds = NULL;
        conf->binds_n = 0;
        break;
    case KEY_HEADERS:
        for (size_t i = 0; i < conf->headers_n; i++) {
            free(conf->headers[i].name);
            free(conf->headers[i].value);
        }
        free(conf->headers);
        conf->headers = NULL;
        conf->headers_n = 0;
        break;
    case KEY_STATICS:
        for (size_t i = 0; i < conf->statics_n; i++)
            static_free(&conf->statics[i]);
        free(conf->statics);
        conf->statics = NULL;
        conf->statics_n = 0;
        break;
    case KEY_SERVICES:
        for (size_t i = 0; i < conf->services_n; i++)
            service_free(&conf->services[i]);
        free(conf->services);
        conf->services = NULL;
        conf->services_n = 0;
        break;
    default:
        number_store(conf, k, 0);
    }
}

static void
no_memory(struct load *l, const struct where *w)
{
    load_system_error(l, w, "no memory");
}

/* --- numbers ---------------------------------------------------------------------------------- */

struct unit {
    const char *name;
    uint64_t size;
};

static const struct unit size_units[] = {
    { "", 1 },
    { "KiB", 1ULL << 10 },
    { "MiB", 1ULL << 20 },
    { "GiB", 1ULL << 30 },
    { "TiB", 1ULL << 40 },
    { NULL, 0 },
};

static const struct unit duration_units[] = {
    { "", 1000 }, { "ms", 1 }, { "s", 1000 }, { "m", 60 * 1000 }, { "h", 3600 * 1000 }, { NULL, 0 },
};

static const struct unit no_units[] = { { "", 1 }, { NULL, 0 } };

/* Digits, at most one point where is_fraction, a unit and nothing else. The value must come out
 * whole in the smallest unit. Returns 0, -EINVAL (no number) or -ERANGE (too large, or too
 * fine). */
static int
parse_number(const char *text, const struct unit *units, bool is_fraction, uint64_t *out)
{
    uint64_t n = 0, parts = 1;
    const char *p = text;
    bool is_behind_point = false;
    if (!isdigit((unsigned char)*p))
        return -EINVAL;
    for (; isdigit((unsigned char)*p) || (*p == '.' && is_fraction && !is_behind_point); p++) {
        if (*p == '.') {
            is_behind_point = true;
            continue;
        }
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
            return -ERANGE;
        if (is_behind_point && __builtin_mul_overflow(parts, 10, &parts))
            return -ERANGE;
    }
    if (p[-1] == '.')
        return -EINVAL;
    const struct unit *u = units;
    while (u->name != NULL && strcmp(u->name, p) != 0)
        u++;
    if (u->name == NULL)
        return -EINVAL;
    if (__builtin_mul_overflow(n, u->size, &n) || n % parts != 0)
        return -ERANGE;
    *out = n / parts;
    return 0;
}

bool
parse_duration(const char *text, uint64_t *ms)
{
    return parse_number(text, duration_units, true, ms) == 0;
}

static int
parse_mode(const char *text, uint64_t *out)
{
    uint64_t n = 0;
    const char *p = strncmp(text, "0o", 2) == 0 ? text + 2 : text;
    if (*p == '\0')
        return -EINVAL;
    for (; *p != '\0'; p++) {
        if (*p < '0' || *p > '7')
            return -EINVAL;
        n = n * 8 + (uint64_t)(*p - '0');
        if (n > 0777)
            return -ERANGE;
    }
    *out = n;
    return 0;
}

bool
parse_bool(const char *text, bool *out)
{
    static const char *const words[][2] = {
        { "false", "true" }, { "no", "yes" }, { "off", "on" }, { "0", "1" }
    };
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        for (int value = 0; value < 2; value++)
            if (strcasecmp(text, words[i][value]) == 0) {
                *out = value;
                return true;
            }
    return false;
}

static int
parse_word(const struct key *k, const char *text, uint64_t *out)
{
    for (const struct key_word *w = k->words; w->word != NULL; w++)
        if (strcasecmp(w->word, text) == 0) {
            *out = w->value;
            return 0;
        }
    return -EINVAL;
}

bool
value_is_words(const struct key *k, const char *text)
{
    do {
        size_t n = strcspn(text, ",");
        struct slice one = slice_trim((struct slice){ text, n });
        bool is_word = k->zero != NULL && slice_is_nocase(one, k->zero);
        for (const struct key_word *w = k->words; w->word != NULL; w++)
            is_word |= slice_is_nocase(one, w->word);
        if (!is_word || (text[n] == ',' && k->type != KEY_WORDS))
            return false;
        text += n;
    } while (*text++ == ',');
    return true;
}

static int
parse_by_type(const struct key *k, const char *text, uint64_t *out)
{
    bool is_true;
    switch (k->type) {
    case KEY_BOOL:
        if (!parse_bool(text, &is_true))
            return -EINVAL;
        *out = is_true;
        return 0;
    case KEY_COUNT:
        return parse_number(text, no_units, false, out);
    case KEY_SIZE:
        return parse_number(text, size_units, false, out);
    case KEY_DURATION:
        return parse_number(text, duration_units, true, out);
    case KEY_MODE:
        return parse_mode(text, out);
    default:
        return parse_word(k, text, out);
    }
}

static bool
key_is_ranged(const struct key *k)
{
    return k->type == KEY_COUNT || k->type == KEY_SIZE || k->type == KEY_DURATION;
}

/* "--workers: 'x' is not ...", with the nearest word where words are what is wanted. */
static void
wrong(struct load *l, const struct key *k, const char *text, int error, const struct where *w)
{
    char expected[256];
    const char *words[16], *near = NULL;
    size_t n = 0;
    for (const struct key_word *word = k->words;
         word != NULL && word->word != NULL && n < ARRAY_LEN(words);)
        words[n++] = (word++)->word;
    if (n > 0)
        near = conf_nearest(text, words, n);
    key_expected(k, expected, sizeof(expected));
    if (near != NULL)
        load_error(l, w, "'%s' is wrong; did you mean %s? (%s)", text, near, expected);
    else
        load_error(l, w, "'%s' is %s; expected %s", text,
                   error == -ERANGE ? "out of range" : "wrong", expected);
}

static void
number_add(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    uint64_t n = 0;
    if (k->zero != NULL && strcasecmp(text, k->zero) == 0) {
        number_store(l->conf, k, 0);
        return;
    }
    int error = parse_by_type(k, text, &n);
    if (error == 0 && key_is_ranged(k) && (n < k->min || n > k->max))
        error = -ERANGE;
    if (error < 0)
        wrong(l, k, text, error, w);
    else
        number_store(l->conf, k, k->type == KEY_WORDS ? n | key_number(l->conf, k) : n);
}

/* --- text ------------------------------------------------------------------------------------- */

/* What no value may hold: control characters, and bytes that are not UTF-8 (--print-config could
 * not write them). */
static const char *
text_fault(const char *text, bool is_tab_ok)
{
    size_t length = strlen(text);
    if (length > TEXT_MAX)
        return "is too long";
    const unsigned char *end = (const unsigned char *)text + length;
    for (const unsigned char *p = (const unsigned char *)text; p < end;) {
        if ((*p < ' ' && !(*p == '\t' && is_tab_ok)) || *p == 0x7f)
            return "holds a control character";
        size_t n = utf8_size(p, (size_t)(end - p));
        if (n == 0)
            return "is not UTF-8";
        p += n;
    }
    return NULL;
}

/* Judges the text of a TEXT, PATH, TEXTS or PATHS. */
static bool
text_is_right(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    char why[160];
    const char *fault = text_fault(text, false);
    if (fault == NULL && text[0] == '\0' && !k->is_empty_ok)
        fault = "is empty";
    if (fault == NULL && k->fault != NULL && k->fault(text, why, sizeof(why)) < 0)
        fault = why;
    if (fault != NULL)
        load_error(l, w, "'%s' %s", text, fault);
    return fault == NULL;
}

static void
text_set(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    if (!text_is_right(l, k, text, w))
        return;
    bool is_none = k->is_dash && strcmp(text, "-") == 0;
    char *copy = is_none ? NULL : k->type == KEY_PATH ? absolute_path(text) : strdup(text);
    if (copy == NULL && !is_none) {
        no_memory(l, w);
        return;
    }
    free(*key_text(l->conf, k));
    *key_text(l->conf, k) = copy;
}

static bool
list_has_room(struct load *l, size_t n, const struct where *w)
{
    if (n >= LIST_MAX)
        load_error(l, w, "has more than %d entries", LIST_MAX);
    return n < LIST_MAX;
}

static void
texts_add(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    struct conf_strings *list = key_texts(l->conf, k);
    if (!list_has_room(l, list->n, w) || !text_is_right(l, k, text, w))
        return;
    MEM_OWNED char *path = k->type == KEY_PATHS ? absolute_path(text) : strdup(text);
    if (path == NULL || strings_add(list, path) < 0)
        no_memory(l, w);
}

/* --- headers ---------------------------------------------------------------------------------- */

/* token, RFC 9110 section 5.6.2 */
static bool
is_token(const char *text)
{
    const char *p = text;
    while (isalnum((unsigned char)*p) || (*p != '\0' && strchr("!#$%&'*+-.^_`|~", *p) != NULL))
        p++;
    return p > text && *p == '\0';
}

/* Headers that say how the answer is framed, which is the server's alone to say. */
static bool
is_framing(const char *name)
{
    static const char *const names[] = {
        "content-length", "transfer-encoding", "connection", "keep-alive",
        "upgrade",        "trailer",           "te"
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcasecmp(name, names[i]) == 0)
            return true;
    return false;
}

static int
header_insert(struct conf *conf, const char *name, const char *value)
{
    struct conf_header *v = reallocarray(conf->headers, conf->headers_n + 1, sizeof(*v));
    if (v == NULL)
        return -ENOMEM;
    conf->headers = v;
    /* Behind the last of the same name, in that one's spelling: YAML, a mapping, can say no other
     * order. */
    size_t at = conf->headers_n;
    while (at > 0 && strcasecmp(v[at - 1].name, name) != 0)
        at--;
    if (at > 0)
        name = v[at - 1].name;
    else
        at = conf->headers_n;
    struct conf_header new = { strdup(name), strdup(value) };
    if (new.name == NULL || new.value == NULL) {
        free(new.name);
        free(new.value);
        return -ENOMEM;
    }
    memmove(&v[at + 1], &v[at], (conf->headers_n - at) * sizeof(*v));
    v[at] = new;
    conf->headers_n++;
    return 0;
}

/* The first value of a stronger source drops the weaker ones'. */
static void
list_claim(struct load *l, const struct key *k, const struct where *w)
{
    if (key_is_list(k) && load_where(l, k)->source != w->source)
        value_free(l->conf, k);
    *load_where(l, k) = *w;
}

void
value_add_header(struct load *l, const struct key *k, const char *name, const char *value,
                 const struct where *w)
{
    list_claim(l, k, w);
    while (*value == ' ' || *value == '\t')
        value++;
    MEM_OWNED char *trimmed = strndup(value, slice_trim(slice_of(value)).n);
    if (trimmed == NULL) {
        no_memory(l, w);
        return;
    }
    const char *fault = text_fault(trimmed, true);
    if (!is_token(name))
        load_error(l, w, "'%s' is not a header's name", name);
    else if (is_framing(name))
        load_error(l, w, "%s is the server's to send", name);
    else if (fault != NULL)
        load_error(l, w, "the value of %s %s", name, fault);
    else if (list_has_room(l, l->conf->headers_n, w) && header_insert(l->conf, name, trimmed) < 0)
        no_memory(l, w);
}

static void
header_add(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    const char *colon = strchr(text, ':');
    if (colon == NULL) {
        load_error(l, w, "'%s' is not a header; write 'Name: value'", text);
        return;
    }
    MEM_OWNED char *name = strndup(text, (size_t)(colon - text));
    if (name == NULL)
        no_memory(l, w);
    else
        value_add_header(l, k, name, colon + 1, w);
}

/* --- addresses -------------------------------------------------------------------------------- */

void
value_add_bind(struct load *l, const struct key *k, struct conf_bind *bind, const struct where *w)
{
    list_claim(l, k, w);
    struct conf_bind *v = NULL;
    if (list_has_room(l, l->conf->binds_n, w)) {
        v = reallocarray(l->conf->binds, l->conf->binds_n + 1, sizeof(*v));
        if (v == NULL)
            no_memory(l, w);
    }
    if (v == NULL) {
        bind_free(bind);
        return;
    }
    l->conf->binds = v;
    v[l->conf->binds_n++] = *bind;
    *bind = (struct conf_bind){ 0 };
}

static void
bind_add(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    struct conf_bind bind = { 0 };
    char why[160];
    const char *fault = text_fault(text, false);
    int error = 0;
    if (fault == NULL) {
        error = bind_parse(text, &bind, why, sizeof(why));
        fault = why;
    } else {
        error = -EINVAL;
    }
    if (error == -ENOMEM)
        no_memory(l, w);
    else if (error < 0)
        load_error(l, w, "'%s' %s", text, fault);
    else
        value_add_bind(l, k, &bind, w);
}

/* --- static files ----------------------------------------------------------------------------- */

void
value_add_static(struct load *l, const struct key *k, struct conf_static *s, const struct where *w)
{
    list_claim(l, k, w);
    const char *texts[] = { s->route, s->dir, s->index };
    const char *fault = NULL;
    for (size_t i = 0; i < ARRAY_LEN(texts) && fault == NULL; i++)
        fault = texts[i] != NULL ? text_fault(texts[i], false) : NULL;
    struct conf_static *v = NULL;
    if (fault != NULL) {
        load_error(l, w, "an entry %s", fault);
    } else if (list_has_room(l, l->conf->statics_n, w)) {
        v = reallocarray(l->conf->statics, l->conf->statics_n + 1, sizeof(*v));
        if (v == NULL)
            no_memory(l, w);
    }
    if (v == NULL) {
        static_free(s);
        return;
    }
    l->conf->statics = v;
    v[l->conf->statics_n++] = *s;
    *s = (struct conf_static){ 0 };
}

static void
static_add(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    struct conf_static s;
    char why[256];
    int err = static_parse(text, &s, why, sizeof(why));
    if (err == -ENOMEM)
        no_memory(l, w);
    else if (err < 0)
        load_error(l, w, "%s", why);
    else
        value_add_static(l, k, &s, w);
}

/* --- services --------------------------------------------------------------------------------- */

void
value_add_service(struct load *l, const struct key *k, struct conf_service *s,
                  const struct where *w)
{
    list_claim(l, k, w);
    struct conf *c = l->conf;
    struct conf_service *v = NULL;
    for (size_t i = 0; i < c->services_n; i++) {
        if (strcmp(c->services[i].name, s->name) == 0) {
            load_error(l, w, "%s is there twice", s->name);
            service_free(s);
            return;
        }
    }
    if (c->services_n == CONF_SERVICES_MAX) {
        load_error(l, w, "has more than %d entries", CONF_SERVICES_MAX);
    } else {
        v = reallocarray(c->services, c->services_n + 1, sizeof(*v));
        if (v == NULL)
            no_memory(l, w);
    }
    if (v == NULL) {
        service_free(s);
        return;
    }
    c->services = v;
    v[c->services_n++] = *s;
    *s = (struct conf_service){ 0 };
}

static void
service_add(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    struct conf_service s;
    char why[256];
    int err = service_parse(text, &s, why, sizeof(why));
    if (err == -ENOMEM)
        no_memory(l, w);
    else if (err < 0)
        load_error(l, w, "%s", why);
    else
        value_add_service(l, k, &s, w);
}

/* --- any -------------------------------------------------------------------------------------- */

void
value_unset(struct load *l, const struct key *k, const struct where *w)
{
    value_free(l->conf, k);
    *load_where(l, k) = *w;
}

void
value_add(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    list_claim(l, k, w);
    switch (k->type) {
    case KEY_TEXT:
    case KEY_PATH:
        text_set(l, k, text, w);
        break;
    case KEY_TEXTS:
    case KEY_PATHS:
        texts_add(l, k, text, w);
        break;
    case KEY_BINDS:
        bind_add(l, k, text, w);
        break;
    case KEY_HEADERS:
        header_add(l, k, text, w);
        break;
    case KEY_STATICS:
        static_add(l, k, text, w);
        break;
    case KEY_SERVICES:
        service_add(l, k, text, w);
        break;
    default:
        number_add(l, k, text, w);
    }
}

void
value_add_joined(struct load *l, const struct key *k, const char *text, const struct where *w)
{
    if (!key_is_list(k)) {
        value_add(l, k, text, w);
        return;
    }
    MEM_OWNED char *copy = strdup(text);
    if (copy == NULL) {
        no_memory(l, w);
        return;
    }
    char *rest = copy, *item;
    while ((item = strsep(&rest, k->type == KEY_HEADERS ? "\n" : ",")) != NULL) {
        while (*item == ' ' || *item == '\t')
            item++;
        item[slice_trim(slice_of(item)).n] = '\0';
        if (k->type != KEY_HEADERS || *item != '\0')
            value_add(l, k, item, w);
    }
}

/* yaml.c: the YAML file.
 *
 * libyaml's document API reads the file, which resolves aliases without copying (no file grows by
 * them) and refuses what is no YAML. The walk below knows two levels, groups and keys, so it ends
 * whatever the document looks like. */
#include <errno.h>
#include <yaml.h>

#include "conf/load.h"

struct walk {
    struct load *l;
    yaml_document_t *doc;
    enum source source;
    const char *file;
    bool seen[KEYS_MAX];   /* keys */
    bool opened[KEYS_MAX]; /* groups, by the index of their first key */
};

static struct where
where_of(const struct walk *y, const yaml_node_t *node, const char *name)
{
    return (struct where){ .source = y->source,
                           .file = y->file,
                           .line = (unsigned)node->start_mark.line + 1,
                           .name = name,
                           .name_n = name ? strlen(name) : 0 };
}

/* The text of a scalar, or NULL after a report. Borrowed from the document. */
static const char *
text_of(struct walk *y, const yaml_node_t *node, const struct where *w)
{
    if (node->type != YAML_SCALAR_NODE) {
        load_error(y->l, w, "has %s where one value belongs",
                   node->type == YAML_SEQUENCE_NODE ? "a list" : "keys of its own");
        return NULL;
    }
    const char *text = (const char *)node->data.scalar.value;
    if (strlen(text) != node->data.scalar.length) {
        load_error(y->l, w, "holds a NUL byte");
        return NULL;
    }
    /* "!!str 5" is fine; "!env NAME" means something to other programs. */
    if (node->tag != NULL && strncmp((const char *)node->tag, "tag:yaml.org,2002:", 18) != 0) {
        load_error(y->l, w, "has the tag %s, which means nothing here", (const char *)node->tag);
        return NULL;
    }
    return text;
}

/* `key:`, `key: null` and `key: ~` */
static bool
is_null(const yaml_node_t *node)
{
    const char *text = (const char *)node->data.scalar.value;
    return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

/* An entry that is a map: each of its keys by set(entry, ...), which returns 0, -EINVAL with why filled in, or -ENOMEM. */
static void
take_entry(struct walk *y, const struct key *k, const yaml_node_t *node, void *entry,
           int (*set)(void *entry, const char *name, const char *text, char *why, size_t size))
{
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(y->doc, pair->key);
        const yaml_node_t *value = yaml_document_get_node(y->doc, pair->value);
        struct where w = where_of(y, key, k->name);
        char why[256];
        const char *name = text_of(y, key, &w);
        const char *text = name == NULL || is_null(value) ? NULL : text_of(y, value, &w);
        if (text == NULL) /* a key without a value keeps its default */
            continue;
        for (const yaml_node_pair_t *p = node->data.mapping.pairs.start; p < pair; p++) {
            const yaml_node_t *other = yaml_document_get_node(y->doc, p->key);
            if (other->type == YAML_SCALAR_NODE &&
                strcmp((const char *)other->data.scalar.value, name) == 0)
                load_error(y->l, &w, "%s is there twice", name);
        }
        int err = set(entry, name, text, why, sizeof(why));
        if (err == -ENOMEM)
            load_system_error(y->l, &w, "no memory");
        else if (err < 0)
            load_error(y->l, &w, "%s", why);
    }
}

static int
set_static(void *entry, const char *name, const char *text, char *why, size_t size)
{
    return static_set(entry, name, text, why, size);
}

/* {route: /static, dir: /srv/static, ...} */
static void
take_static(struct walk *y, const struct key *k, const yaml_node_t *node)
{
    struct where entry = where_of(y, node, k->name);
    struct conf_static s;
    unsigned errors = y->l->errors;
    static_init(&s);
    take_entry(y, k, node, &s, set_static);
    if (y->l->errors == errors && (s.route == NULL || s.dir == NULL))
        load_error(y->l, &entry,
                   "an entry needs a route and a dir: {route: /static, dir: /srv/static}");
    if (y->l->errors == errors)
        value_add_static(y->l, k, &s, &entry);
    else
        static_free(&s);
}

static int
set_service(void *entry, const char *name, const char *text, char *why, size_t size)
{
    return service_set(entry, name, text, why, size);
}

/* bot: {run: mysite.bot:main, ...}; as an entry of a list its name is among its keys, and name is NULL. */
static void
take_service(struct walk *y, const struct key *k, const char *name, const yaml_node_t *node)
{
    struct where entry = where_of(y, node, k->name);
    struct conf_service s;
    char why[256];
    unsigned errors = y->l->errors;
    int err = 0;
    service_init(&s);
    if (name != NULL)
        err = service_set(&s, "name", name, why, sizeof(why));
    if (err == -ENOMEM)
        load_system_error(y->l, &entry, "no memory");
    else if (err < 0)
        load_error(y->l, &entry, "%s", why);
    take_entry(y, k, node, &s, set_service);
    if (y->l->errors == errors && name != NULL && strcmp(s.name, name) != 0)
        load_error(y->l, &entry, "%s: name: %s is another one; leave it out", name, s.name);
    else if (y->l->errors == errors && s.name == NULL)
        load_error(y->l, &entry, "an entry needs a name: {name: bot, run: \"mysite.bot:main\"}");
    else if (y->l->errors == errors && s.run == NULL)
        load_error(y->l, &entry, "%s: needs a function to run: {run: \"mysite.bot:main\"}", s.name);
    if (y->l->errors == errors)
        value_add_service(y->l, k, &s, &entry);
    else
        service_free(&s);
}

/* name: mysite.bot:main, or name: {run: ...} */
static void
take_services(struct walk *y, const struct key *k, const yaml_node_t *node)
{
    struct where whole = where_of(y, node, k->name);
    value_unset(y->l, k, &whole);
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(y->doc, pair->key);
        const yaml_node_t *value = yaml_document_get_node(y->doc, pair->value);
        struct where w = where_of(y, key, k->name);
        const char *name = text_of(y, key, &w);
        if (name == NULL)
            continue;
        if (value->type == YAML_MAPPING_NODE) {
            take_service(y, k, name, value);
            continue;
        }
        const char *run = text_of(y, value, &w);
        MEM_OWNED char *text = NULL;
        if (run != NULL && asprintf(&text, "%s=%s", name, run) < 0)
            load_system_error(y->l, &w, "no memory");
        else if (run != NULL)
            value_add(y->l, k, text, &w);
    }
}

/* name: value, each an entry NAME=VALUE. */
static void
take_pairs(struct walk *y, const struct key *k, const yaml_node_t *node)
{
    struct where whole = where_of(y, node, k->name);
    value_unset(y->l, k, &whole);
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(y->doc, pair->key);
        struct where w = where_of(y, key, k->name);
        const char *name = text_of(y, key, &w);
        const char *value =
            name != NULL ? text_of(y, yaml_document_get_node(y->doc, pair->value), &w) : NULL;
        MEM_OWNED char *text = NULL;
        if (value != NULL && asprintf(&text, "%s=%s", name, value) < 0)
            load_system_error(y->l, &w, "no memory");
        else if (value != NULL)
            value_add(y->l, k, text, &w);
    }
}

static void
take_list(struct walk *y, const struct key *k, const yaml_node_t *node)
{
    const yaml_node_item_t *item = node->data.sequence.items.start,
                           *end = node->data.sequence.items.top;
    if (item == end) {
        struct where w = where_of(y, node, k->name);
        value_unset(y->l, k, &w);
    }
    for (; item < end; item++) {
        const yaml_node_t *entry = yaml_document_get_node(y->doc, *item);
        struct where w = where_of(y, entry, k->name);
        if (k->type == KEY_STATICS && entry->type == YAML_MAPPING_NODE) {
            take_static(y, k, entry);
            continue;
        }
        if (k->type == KEY_SERVICES && entry->type == YAML_MAPPING_NODE) {
            take_service(y, k, NULL, entry);
            continue;
        }
        const char *text = text_of(y, entry, &w);
        if (text != NULL)
            value_add(y->l, k, text, &w);
    }
}

/* Name: value, or Name: [value, value] */
static void
take_header(struct walk *y, const struct key *k, const char *name, const yaml_node_t *node)
{
    struct where w = where_of(y, node, k->name);
    const char *text;
    if (node->type != YAML_SEQUENCE_NODE) {
        if ((text = text_of(y, node, &w)) != NULL)
            value_add_header(y->l, k, name, text, &w);
        return;
    }
    for (const yaml_node_item_t *item = node->data.sequence.items.start;
         item < node->data.sequence.items.top; item++) {
        const yaml_node_t *entry = yaml_document_get_node(y->doc, *item);
        w = where_of(y, entry, k->name);
        if ((text = text_of(y, entry, &w)) != NULL)
            value_add_header(y->l, k, name, text, &w);
    }
}

static void
take_headers(struct walk *y, const struct key *k, const yaml_node_t *node)
{
    struct where w = where_of(y, node, k->name);
    const yaml_node_pair_t *first = node->data.mapping.pairs.start,
                           *end = node->data.mapping.pairs.top;
    value_unset(y->l, k, &w);
    if (end - first > LIST_MAX) {
        load_error(y->l, &w, "has more than %d entries", LIST_MAX);
        return;
    }
    for (const yaml_node_pair_t *pair = first; pair < end; pair++) {
        const yaml_node_t *key = yaml_document_get_node(y->doc, pair->key);
        w = where_of(y, key, k->name);
        const char *name = text_of(y, key, &w);
        bool is_twice = false;
        for (size_t i = 0; name != NULL && i < y->l->conf->headers_n && !is_twice; i++)
            is_twice = strcasecmp(y->l->conf->headers[i].name, name) == 0;
        if (is_twice)
            load_error(y->l, &w, "%s is there twice; write one list: [first, second]", name);
        else if (name != NULL)
            take_header(y, k, name, yaml_document_get_node(y->doc, pair->value));
    }
}

static void
take_value(struct walk *y, const struct key *k, const yaml_node_t *node)
{
    struct where w = where_of(y, node, k->name);
    if (is_null(node)) {
        if (k->initial == NULL || k->is_empty_ok)
            value_unset(y->l, k, &w);
        else
            load_error(y->l, &w, "has no value; give one or remove the line");
        if (k->is_empty_ok && *key_text(y->l->conf, k) == NULL)
            value_add(y->l, k, "", &w);
    } else if (k->type == KEY_HEADERS) {
        if (node->type == YAML_MAPPING_NODE)
            take_headers(y, k, node);
        else
            load_error(y->l, &w, "belongs written as 'Name: value' lines below it");
    } else if (k->type == KEY_SERVICES && node->type == YAML_MAPPING_NODE) {
        take_services(y, k, node);
    } else if (k->is_map && node->type == YAML_MAPPING_NODE) {
        take_pairs(y, k, node);
    } else if (key_is_list(k) && node->type == YAML_SEQUENCE_NODE) {
        take_list(y, k, node);
    } else {
        const char *text = text_of(y, node, &w);
        if (text != NULL)
            value_add(y->l, k, text, &w);
    }
}

static void
unknown_key(struct walk *y, const char *name, const struct where *w)
{
    const char *advice = names_advice(name);
    const char *near = names_near_key(name);
    if (strcmp(name, "<<") == 0)
        load_error(y->l, w,
                   "merge keys are not supported; repeat the keys, or use an alias for one value");
    else if (near != NULL && conf_nearest(name, &near, 1) != NULL)
        load_error(y->l, w, "no such key; did you mean %s?", near);
    else if (advice != NULL)
        load_error(y->l, w, "no such key; %s", advice);
    else if (near != NULL)
        load_error(y->l, w, "no such key; did you mean %s?", near);
    else
        load_error(y->l, w, "no such key; ringcorn --config-reference lists all");
}

/* The key's text, whole name "group.key" in full. False after a report. */
static bool
name_of(struct walk *y, const yaml_node_t *node, const char *group, char *full, size_t size)
{
    struct where w = where_of(y, node, group);
    const char *text = text_of(y, node, &w);
    if (text == NULL)
        return false;
    snprintf(full, size, "%s%s%.*s", group ? group : "", group ? "." : "", (int)(size / 2), text);
    if (strchr(text, '.') != NULL && schema_by_name(full) != NULL) {
        w.name = full;
        w.name_n = strlen(full);
        load_error(y->l, &w, "write it nested: `%.*s:`, and below it, indented, `%s: ...`",
                   (int)strcspn(text, "."), text, strchr(text, '.') + 1);
        return false;
    }
    return true;
}

static void
take_group(struct walk *y, const char *group, const yaml_node_t *node)
{
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(y->doc, pair->key);
        const yaml_node_t *value = yaml_document_get_node(y->doc, pair->value);
        char name[2 * NAME_MAX_KEY];
        if (!name_of(y, key, group, name, sizeof(name)))
            continue;
        struct where w = where_of(y, key, name);
        const struct key *k = schema_by_name(name);
        const struct key *first = schema_group(name);
        bool *seen = k != NULL       ? &y->seen[k - schema]
                     : first != NULL ? &y->opened[first - schema]
                                     : NULL;
        if (seen == NULL) {
            unknown_key(y, name, &w);
        } else if (*seen) {
            load_error(y->l, &w, "is there twice");
        } else {
            *seen = true;
            if (k != NULL)
                take_value(y, k, value);
            else if (value->type == YAML_MAPPING_NODE)
                take_group(y, name, value);
            else if (!is_null(value)) /* a group whose keys are all commented out is fine */
                load_error(y->l, &w, "is a group of keys; write them below it, such as `%s: ...`",
                           first->name + key_group_size(first) + 1);
        }
    }
}

static void
syntax_error(struct load *l, const char *file, const yaml_parser_t *parser)
{
    struct where w = { .source = SOURCE_YAML,
                       .file = file,
                       .line = (unsigned)parser->problem_mark.line + 1 };
    if (parser->error == YAML_MEMORY_ERROR) {
        load_system_error(l, &w, "no memory");
    } else if (parser->error == YAML_READER_ERROR) {
        w.line = 0;
        load_error(l, &w, "is not UTF-8 text: %s at byte %zu",
                   parser->problem ? parser->problem : "fault", parser->problem_offset);
    } else {
        load_error(l, &w, "%s%s%s", parser->context ? parser->context : "",
                   parser->context ? ": " : "", parser->problem ? parser->problem : "is not YAML");
    }
}

void
yaml_apply(struct load *l, enum source source, const char *name, const char *text, size_t n)
{
    yaml_parser_t parser;
    yaml_document_t doc, next;
    struct where whole = { .source = source, .file = name };
    if (!yaml_parser_initialize(&parser)) {
        load_system_error(l, &whole, "no memory");
        return;
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    if (!yaml_parser_load(&parser, &doc)) {
        syntax_error(l, name, &parser);
        yaml_parser_delete(&parser);
        return;
    }
    yaml_node_t *root = yaml_document_get_root_node(&doc);
    struct walk y = { .l = l, .doc = &doc, .source = source, .file = name };
    if (root != NULL && root->type == YAML_MAPPING_NODE)
        take_group(&y, NULL, root);
    else if (root != NULL && !is_null(root))
        load_error(l, &whole, "is not a list of `key: value` lines");
    if (root != NULL) {
        /* Behind the document comes the end, or a fault, or another document, which nobody would
         * ever apply. */
        if (!yaml_parser_load(&parser, &next)) {
            syntax_error(l, name, &parser);
        } else {
            if (yaml_document_get_root_node(&next) != NULL)
                load_error(l, &whole, "holds several documents; only one is read");
            yaml_document_delete(&next);
        }
    }
    yaml_document_delete(&doc);
    yaml_parser_delete(&parser);
}

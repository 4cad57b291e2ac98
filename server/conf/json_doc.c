/* json_doc.c: reads JSON, by libyaml. */
#include "conf/json_doc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether nothing follows the value. */
static bool
is_at_end(yaml_parser_t *parser)
{
    yaml_document_t next;
    if (!yaml_parser_load(parser, &next))
        return false;
    bool is_end = yaml_document_get_root_node(&next) == NULL;
    yaml_document_delete(&next);
    return is_end;
}

int
json_doc_parse(struct json_doc *doc, const char *p, size_t n, char *why, size_t why_size)
{
    yaml_parser_t parser;
    doc->is_loaded = false;
    if (!yaml_parser_initialize(&parser))
        return -ENOMEM;
    yaml_parser_set_input_string(&parser, (const unsigned char *)p, n);
    doc->is_loaded = yaml_parser_load(&parser, &doc->yaml) != 0;
    bool is_whole = doc->is_loaded && is_at_end(&parser);
    int err = is_whole ? 0 : parser.error == YAML_MEMORY_ERROR ? -ENOMEM : -EINVAL;
    if (err == -EINVAL)
        snprintf(why, why_size, "%s at byte %zu",
                 parser.problem != NULL ? parser.problem : "something follows the value",
                 parser.error == YAML_READER_ERROR ? parser.problem_offset
                                                   : parser.problem_mark.index);
    yaml_parser_delete(&parser);
    return err;
}

void
json_doc_free(struct json_doc *doc)
{
    if (doc->is_loaded)
        yaml_document_delete(&doc->yaml);
    doc->is_loaded = false;
}

struct json_ref
json_doc_root(struct json_doc *doc)
{
    return (struct json_ref){ doc,
                              doc->is_loaded ? yaml_document_get_root_node(&doc->yaml) : NULL };
}

void
json_doc_tame(struct json_doc *doc, bool has_lines)
{
    for (yaml_node_t *node = doc->yaml.nodes.start; doc->is_loaded && node < doc->yaml.nodes.top;
         node++) {
        if (node->type != YAML_SCALAR_NODE)
            continue;
        for (unsigned char *p = node->data.scalar.value; *p != '\0'; p++) {
            if (*p == '\n' || *p == '\t')
                *p = has_lines ? *p : ' ';
            else if (*p < ' ' || *p == 0x7f)
                *p = '?';
            else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) /* U+0080 to U+009F */
                p[0] = p[1] = '?';
        }
    }
}

bool
json_ref_is_object(struct json_ref ref)
{
    return ref.node != NULL && ref.node->type == YAML_MAPPING_NODE;
}

bool
json_ref_is_array(struct json_ref ref)
{
    return ref.node != NULL && ref.node->type == YAML_SEQUENCE_NODE;
}

size_t
json_ref_n(struct json_ref ref)
{
    if (json_ref_is_object(ref))
        return (size_t)(ref.node->data.mapping.pairs.top - ref.node->data.mapping.pairs.start);
    if (json_ref_is_array(ref))
        return (size_t)(ref.node->data.sequence.items.top - ref.node->data.sequence.items.start);
    return 0;
}

struct json_ref
json_ref_at(struct json_ref ref, size_t i)
{
    int id = i >= json_ref_n(ref)      ? 0
             : json_ref_is_object(ref) ? ref.node->data.mapping.pairs.start[i].value
                                       : ref.node->data.sequence.items.start[i];
    return (struct json_ref){ ref.doc,
                              id != 0 ? yaml_document_get_node(&ref.doc->yaml, id) : NULL };
}

const char *
json_ref_name(struct json_ref ref, size_t i)
{
    if (!json_ref_is_object(ref) || i >= json_ref_n(ref))
        return NULL;
    int id = ref.node->data.mapping.pairs.start[i].key;
    return json_ref_text((struct json_ref){ ref.doc, yaml_document_get_node(&ref.doc->yaml, id) });
}

struct json_ref
json_ref_get(struct json_ref ref, const char *name)
{
    for (size_t i = 0; json_ref_is_object(ref) && i < json_ref_n(ref); i++) {
        const char *key = json_ref_name(ref, i);
        if (key != NULL && strcmp(key, name) == 0)
            return json_ref_at(ref, i);
    }
    return (struct json_ref){ ref.doc, NULL };
}

const char *
json_ref_text(struct json_ref ref)
{
    if (ref.node == NULL || ref.node->type != YAML_SCALAR_NODE)
        return NULL;
    const char *text = (const char *)ref.node->data.scalar.value;
    bool is_plain = ref.node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return is_plain && (*text == '\0' || strcmp(text, "null") == 0) ? NULL : text;
}

bool
json_ref_int(struct json_ref ref, int64_t *out)
{
    const char *text = json_ref_text(ref);
    char *end;
    if (text == NULL || *text == '\0' || *text == ' ')
        return false;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *out = n;
    return true;
}

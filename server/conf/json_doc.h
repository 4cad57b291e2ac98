/* json_doc.h: reads JSON, by libyaml, as JSON is a subset of YAML (so a little more than JSON is accepted). What it returns is borrowed
 * from the document. base/json.h writes. */
#ifndef RINGCORN_CONF_JSON_DOC_H
#define RINGCORN_CONF_JSON_DOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <yaml.h>

struct json_doc {
    yaml_document_t yaml;
    bool is_loaded;
};

/* A value in a document; node NULL: there is none. Any of the functions below takes that too. */
struct json_ref {
    struct json_doc *doc;
    const yaml_node_t *node;
};

/* Returns 0, -ENOMEM, or -EINVAL with why filled in. Ends with json_doc_free() in any case. */
int json_doc_parse(struct json_doc *doc, const char *p, size_t n, char *why, size_t why_size);
void json_doc_free(struct json_doc *doc);
#define JSON_DOC_OWNED __attribute__((cleanup(json_doc_free)))

struct json_ref json_doc_root(struct json_doc *doc);
/* For a terminal: what it would obey stands as ? in all texts, and, unless has_lines, a line's end or a tabulator as a space. */
void json_doc_tame(struct json_doc *doc, bool has_lines);

/* Members of an object or an array: how many, each by its place, and its name (NULL in an array). */
size_t json_ref_n(struct json_ref ref);
struct json_ref json_ref_at(struct json_ref ref, size_t i);
const char *json_ref_name(struct json_ref ref, size_t i);
/* The member of an object by its name. */
struct json_ref json_ref_get(struct json_ref ref, const char *name);

bool json_ref_is_object(struct json_ref ref);
bool json_ref_is_array(struct json_ref ref);
/* The text of a string, and of a number, true, false; NULL for null, objects and arrays. */
const char *json_ref_text(struct json_ref ref);
/* False where it is no whole number of 64 bits. */
bool json_ref_int(struct json_ref ref, int64_t *out);

#endif

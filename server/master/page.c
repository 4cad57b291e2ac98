/* page.c: the status page, and the JSON that it draws. Owns: requests that wait for an answer, samples of the last minutes. */
#include "page.h"

#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/base.h"
#include "base/json.h"
#include "figures.h"
#include "state.h"

enum {
    SAMPLES_MAX = 300,
    SAMPLE_MS = 1000,
    ASKING_MAX = 32, /* a tab asks for four things at a time */
};

/* The page itself; the Makefile knows that this file depends on it. */
__asm__(".pushsection .rodata\n"
        "page_html:\n"
        ".incbin \"server/master/page/status.html\"\n"
        "page_html_end:\n"
        ".popsection\n");
extern const char page_html[] __attribute__((visibility("hidden")));
extern const char page_html_end[] __attribute__((visibility("hidden")));

/* A request that waits for the end of its command. */
struct asking {
    struct list node;
    struct h1 *h;
    struct ctl_job job;
    bool is_done;
};

struct page {
    struct master *m;
    struct list asking;
    unsigned asking_n;
    struct figures samples[SAMPLES_MAX]; /* a ring: the next goes to samples_n % SAMPLES_MAX */
    unsigned samples_n;                  /* ever taken */
    int64_t sample_at_ns;                /* the next */
    char policy[320];                    /* Content-Security-Policy */
};

static const struct {
    const char *path, *command; /* command NULL: the history */
} asked[] = {
    { "/status.json", "metrics" },           { "/status/history.json", NULL },
    { "/status/requests.json", "requests" }, { "/status/tasks.json", "tasks" },
    { "/status/threads.json", "threads" },   { "/status/blocks.json", "blocks" },
    { "/status/advise.json", "advise" },
};

static struct slice
html(void)
{
    return (struct slice){ page_html, (size_t)(page_html_end - page_html) };
}

/* What comes from requests is text in the page, and nothing is fetched from elsewhere: the policy holds even where the page is wrong. Of
 * scripts it lets in the page's own, which it knows by its hash. */
static int
make_policy(struct page *p)
{
    static const char begin[] = "<script>", end[] = "</script>";
    unsigned char hash[EVP_MAX_MD_SIZE], text[2 * EVP_MAX_MD_SIZE];
    unsigned hash_n;
    struct slice page = html();
    const char *from = memmem(page.p, page.n, begin, sizeof(begin) - 1);
    if (from == NULL)
        return -1;
    from += sizeof(begin) - 1;
    const char *to = memmem(from, (size_t)(page.p + page.n - from), end, sizeof(end) - 1);
    if (to == NULL || EVP_Digest(from, (size_t)(to - from), hash, &hash_n, EVP_sha256(), NULL) != 1)
        return -1;
    EVP_EncodeBlock(text, hash, (int)hash_n);
    snprintf(p->policy, sizeof(p->policy),
             "default-src 'none'; script-src 'sha256-%s'; style-src 'unsafe-inline'; img-src "
             "data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors "
             "'none'",
             (const char *)text);
    return 0;
}

struct page *
page_new(struct master *m)
{
    struct page *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    if (make_policy(p) < 0) {
        free(p);
        return NULL;
    }
    p->m = m;
    list_init(&p->asking);
    return p;
}

static void
asking_free(struct page *p, struct asking *a)
{
    if (!a->is_done)
        ctl_abandon(&a->job);
    list_del(&a->node);
    buf_free(&a->job.out);
    free(a);
    p->asking_n--;
}

void
page_close(struct page *p)
{
    while (p != NULL && !list_is_empty(&p->asking)) {
        struct asking *a = CONTAINER_OF(p->asking.next, struct asking, node);
        struct h1 *h = a->h;
        asking_free(p, a);
        h1_fail(h, 503);
        h1_end(h);
    }
    page_free(p);
}

void
page_free(struct page *p)
{
    if (p == NULL)
        return;
    while (!list_is_empty(&p->asking))
        asking_free(p, CONTAINER_OF(p->asking.next, struct asking, node));
    free(p);
}

/* --- answers -------------------------------------------------------------------------------------- */

static void
answer(const struct page *p, struct h1 *h, int status, struct slice type, struct slice body)
{
    const struct http_header headers[] = {
        { SLICE("content-type"), type },
        { SLICE("cache-control"), SLICE("no-store") },
        { SLICE("x-content-type-options"), SLICE("nosniff") },
        { SLICE("referrer-policy"), SLICE("no-referrer") },
        { SLICE("cross-origin-resource-policy"), SLICE("same-origin") },
        { SLICE("content-security-policy"), slice_of(p->policy) },
        { SLICE("allow"), SLICE("GET, HEAD") },
    };
    size_t bad;
    size_t n = ARRAY_LEN(headers) - (status != 405);
    if (h1_start(h, status, headers, n, &bad) == HTTP_OK)
        (void)h1_write(h, body.p, body.n, NULL, true);
    h1_end(h);
}

static void
answer_json(const struct page *p, struct h1 *h, int status, const struct buf *body)
{
    answer(p, h, status, SLICE("application/json"), (struct slice){ body->p, body->n });
}

static void
answer_history(const struct page *p, struct h1 *h)
{
    BUF_OWNED struct buf out = { 0 };
    struct json j = json_into(&out);
    json_begin(&j, '{');
    json_key(&j, "bounds_s"), figures_put_bounds(&j);
    json_key(&j, "samples"), json_begin(&j, '[');
    for (unsigned i = p->samples_n < SAMPLES_MAX ? 0 : p->samples_n - SAMPLES_MAX; i < p->samples_n;
         i++)
        figures_put(&j, &p->samples[i % SAMPLES_MAX]);
    json_end(&j, ']');
    json_end(&j, '}');
    if (j.is_lost) {
        h1_fail(h, 503);
        h1_end(h);
    } else {
        answer_json(p, h, 200, &out);
    }
}

static void
on_done(struct master *m, struct ctl_job *job)
{
    (void)m;
    CONTAINER_OF(job, struct asking, job)->is_done = true;
}

static void
ask(struct page *p, struct h1 *h, const char *command)
{
    struct asking *a = p->asking_n < ASKING_MAX ? calloc(1, sizeof(*a)) : NULL;
    if (a == NULL) {
        h1_fail(h, 503);
        h1_end(h);
        return;
    }
    a->h = h;
    a->job.done = on_done;
    list_add_tail(&p->asking, &a->node);
    p->asking_n++;
    ctl_do(p->m, &a->job, command, (struct json_ref){ 0 });
}

/* --- who asks ------------------------------------------------------------------------------------------ */

static bool
is_loopback(const struct sockaddr_storage *at)
{
    struct net_address a = net_address_of(at);
    return a.family == AF_INET    ? a.ip.s6_addr[0] == IN_LOOPBACKNET
           : a.family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(&a.ip)
                                  : false;
}

static bool
is_own_name(const struct conf *conf, struct slice host)
{
    static const char local[] = ".localhost";
    char name[HOST_NAME_MAX + 1] = "";
    (void)gethostname(name, sizeof(name) - 1);
    return slice_is_nocase(host, local + 1) || slice_is_nocase(host, name) ||
           (host.n >= sizeof(local) &&
            strncasecmp(host.p + host.n - (sizeof(local) - 1), local, sizeof(local) - 1) == 0) ||
           (conf->metrics_at.host != NULL && slice_is_nocase(host, conf->metrics_at.host));
}

/* A name that somebody else's DNS turns into 127.0.0.1 makes this page, to a browser, a part of his site, whose scripts may read it then. What
 * comes by the loopback has to name it by an address or as this machine; of what comes from elsewhere nothing is known, and the page is
 * for whoever can reach it. */
static bool
is_named_rightly(const struct page *p, struct h1 *h)
{
    const struct http_request *req = h1_request(h);
    struct net_address address;
    if (!is_loopback(h1_local(h)))
        return true;
    for (unsigned i = 0; i < req->headers_n; i++) {
        if (!slice_is_nocase(req->headers[i].name, "host"))
            continue;
        struct slice host = req->headers[i].value;
        const char *colon = memrchr(host.p, ':', host.n);
        if (net_address_parse(host, &address))
            continue;
        if (colon != NULL)
            host.n = (size_t)(colon - host.p);
        if (!is_own_name(p->m->now.conf, host))
            return false;
    }
    return true;
}

static bool
is_page(struct slice path)
{
    return slice_is(path, "/") || slice_is(path, "/status");
}

bool
page_begin(struct page *p, struct h1 *h)
{
    const struct http_request *req = h1_request(h);
    bool is_read = req->is_head || slice_is(req->method, "GET");
    bool is_whole = is_page(req->path);
    size_t i = 0;
    while (i < ARRAY_LEN(asked) && !slice_is(req->path, asked[i].path))
        i++;
    if (!is_whole && i == ARRAY_LEN(asked))
        return false;
    bool is_welcome = is_named_rightly(p, h); /* before the head goes */
    h1_head_done(h);
    if (!is_welcome)
        answer(p, h, 403, SLICE("text/plain"),
               SLICE("this page is known as localhost and by its address; a proxy in front of it "
                     "has to send one of these as Host\n"));
    else if (!is_read)
        answer(p, h, 405, SLICE("text/plain"), SLICE("this page can be read, and no more\n"));
    else if (is_whole)
        answer(p, h, 200, SLICE("text/html; charset=utf-8"), html());
    else if (asked[i].command == NULL)
        answer_history(p, h);
    else
        ask(p, h, asked[i].command);
    return true;
}

/* --- its turn ----------------------------------------------------------------------------------------- */

static void
finish(const struct page *p, struct asking *a)
{
    if (a->job.is_ok) {
        answer_json(p, a->h, 200, &a->job.out);
        return;
    }
    BUF_OWNED struct buf out = { 0 };
    struct json j = json_into(&out);
    json_begin(&j, '{');
    json_key(&j, "error"), json_text(&j, (struct slice){ a->job.out.p, a->job.out.n });
    json_end(&j, '}');
    answer_json(p, a->h, 503, &out);
}

unsigned
page_turn(struct page *p)
{
    unsigned n = 0;
    int64_t now_ns = clock_ns();
    if (now_ns >= p->sample_at_ns) {
        figures_of_all(p->m, &p->samples[p->samples_n++ % SAMPLES_MAX]);
        p->sample_at_ns = now_ns + SAMPLE_MS * NS_PER_MS;
    }
    LIST_FOR_EACH_SAFE(node, &p->asking) {
        struct asking *a = CONTAINER_OF(node, struct asking, node);
        if (!a->is_done)
            continue;
        finish(p, a);
        asking_free(p, a);
        n++;
    }
    return n;
}

int64_t
page_next_ns(const struct page *p)
{
    LIST_FOR_EACH(node, &p->asking)
        if (CONTAINER_OF(node, struct asking, node)->is_done)
            return 1; /* a time long past */
    return p->sample_at_ns;
}

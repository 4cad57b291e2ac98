/* lent.c: the set of sockets as one master gives it to the next (handover.c), which has the same descriptors under the same
 * numbers from then on. While both have them one answers for them: it alone drops SYNs, removes files, changes modes. What is
 * lent is accepted from like everything else; what the next configuration does not ask for is left to the master that lends it
 * until the end. */
#include "sockets.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static const char *const kinds[] = {
    [CONF_BIND_TCP] = "tcp",
    [CONF_BIND_UNIX] = "unix",
    [CONF_BIND_FD] = "fd",
    [CONF_BIND_SYSTEMD] = "systemd",
};

enum { TEXT_SIZE = 1024 }; /* of an address or a path, with its escapes */

/* A text as one word. */
static void
write_word(const char *text, FILE *out)
{
    fputc(' ', out);
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++)
        fprintf(out, *p <= ' ' || *p == '%' || *p >= 0x7f ? "%%%02x" : "%c", *p);
}

/* Of a word; in place. */
static void
unescape(char *text)
{
    char *to = text;
    for (const char *p = text; *p != '\0'; p++) {
        unsigned c = (unsigned char)*p;
        if (*p == '%' && sscanf(p + 1, "%2x", &c) == 1)
            p += 2;
        *to++ = (char)c;
    }
    *to = '\0';
}

void
sockets_write(const struct sockets *s, const char *name, FILE *out)
{
    BOUNDS_EACH(b, &s->bounds) {
        fprintf(out, "bound %s %s %d %d %u", name, kinds[b->kind], b->is_per_slot, b->is_tls,
                b->port_asked);
        write_word(b->text, out);
        write_word(b->path != NULL ? b->path : "-", out);
        fputc('\n', out);
        for (unsigned i = 0; i < b->n; i++)
            fprintf(out, "socket %d %ju %ju\n", b->v[i].fd, (uintmax_t)b->v[i].dev,
                    (uintmax_t)b->v[i].ino);
    }
}

void
sockets_pass(const struct sockets *s)
{
    BOUNDS_EACH(b, &s->bounds)
        for (unsigned i = 0; i < b->n; i++)
            (void)fcntl(b->v[i].fd, F_SETFD, 0);
}

int
bound_read(const char *words, struct list *bounds)
{
    char kind[16], text[TEXT_SIZE], path[TEXT_SIZE];
    int is_per_slot, is_tls;
    unsigned port_asked, k = 0;
    if (sscanf(words, "%15s %d %d %u %1023s %1023s", kind, &is_per_slot, &is_tls, &port_asked, text,
               path) != 6)
        return -EINVAL;
    while (k < ARRAY_LEN(kinds) && strcmp(kinds[k], kind) != 0)
        k++;
    if (k == ARRAY_LEN(kinds))
        return -EINVAL;
    unescape(text);
    unescape(path);
    struct bound *b = bound_new((enum conf_bind_kind)k, text, is_per_slot != 0);
    if (b == NULL)
        return -ENOMEM;
    list_add_tail(bounds, &b->node);
    b->is_lent = true;
    b->is_tls = is_tls != 0;
    b->port_asked = (uint16_t)port_asked;
    if (b->kind == CONF_BIND_UNIX && (b->path = strdup(path)) == NULL)
        return -ENOMEM;
    return 0;
}

int
bound_read_socket(const char *words, struct list *bounds)
{
    int fd, is_listening = 0;
    uintmax_t dev, ino;
    socklen_t n = sizeof(is_listening);
    if (list_is_empty(bounds) || sscanf(words, "%d %ju %ju", &fd, &dev, &ino) != 3)
        return -EINVAL;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &n) < 0)
        return -errno;
    struct bound *b = CONTAINER_OF(bounds->prev, struct bound, node);
    struct sockets none = { 0 }; /* it gets its id when it is adopted */
    if (bound_add(&none, b, fd) < 0)
        return -ENOMEM;
    struct msocket *k = &b->v[b->n - 1];
    k->dev = (dev_t)dev;
    k->ino = (ino_t)ino;
    k->is_listening = is_listening != 0;
    b->addr_len = sizeof(b->addr);
    return getsockname(fd, (struct sockaddr *)&b->addr, &b->addr_len) < 0 ? -errno : 0;
}

void
sockets_adopt(struct sockets *s, struct list *bounds)
{
    BOUNDS_EACH(b, bounds)
        for (unsigned i = 0; i < b->n; i++)
            b->v[i].id = s->next_id++;
    list_splice(&s->bounds, bounds);
}

void
sockets_lend(struct sockets *s)
{
    BOUNDS_EACH(b, &s->bounds)
        b->is_lent = true;
}

void
sockets_own(struct sockets *s, const struct conf *conf)
{
    BOUNDS_EACH(b, &s->bounds)
        if (b->is_lent) {
            b->is_lent = false;
            bound_apply(b, conf);
        }
    BOUNDS_EACH(b, &s->lent) {
        b->is_lent = false;
        bound_shut_door(b);
    }
    list_splice(&s->leaving, &s->lent);
}

/* handover.c: what one master tells the next, written and read. Leaves to others: when (upgrade.c), and what a socket is (lent.c). */
#include "handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "base/base.h"
#include "state.h"

enum { LINE_SIZE = 4096, FORMAT = 1 };

static void
write_tickets(const struct certs *certs, FILE *out)
{
    unsigned char keys[TLS_TICKETS_SIZE];
    if (certs->tickets == NULL)
        return;
    tls_tickets_copy(certs->tickets, keys);
    fprintf(out, "tickets %lld ", (long long)certs->rotate_ns);
    for (size_t i = 0; i < sizeof(keys); i++)
        fprintf(out, "%02x", keys[i]);
    fputc('\n', out);
    OPENSSL_cleanse(keys, sizeof(keys));
}

int
handover_write(const struct master *m)
{
    FD_OWNED int fd = memfd_create("ringcorn-handover", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    FD_OWNED int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* the stream's, which closes it */
    FILE *out = copy >= 0 ? fdopen(copy, "w") : NULL;
    if (out == NULL)
        return -errno;
    (void)fd_take(&copy);
    /* Nothing of the keys is left in memory that is freed. */
    setvbuf(out, NULL, _IONBF, 0);
    fprintf(out, "ringcorn %d\nworkers %u %u\nsystemd %d\n", FORMAT, m->now.conf->workers,
            m->wanted, inherited_systemd_fds());
    write_tickets(&m->certs, out);
    fprintf(out, "metrics %d\n", m->metrics_fd);
    sockets_write(&m->sockets, "app", out);
    health_write(m->health, out);
    ctl_write(m->ctl, out);
    fprintf(out, "end\n");
    if (fclose(out) != 0)
        return -errno;
    return fd_take(&fd);
}

static int
read_tickets(const char *hex, struct handover *h)
{
    for (size_t i = 0; i < sizeof(h->tickets); i++)
        if (sscanf(hex + 2 * i, "%2hhx", &h->tickets[i]) != 1)
            return 0; /* keys of another kind: sessions begin anew, no more */
    h->has_tickets = true;
    return 0;
}

/* Which set is named; what follows it, or NULL: none that is known. */
static const char *
set_of(const char *text, struct handover *h, struct list **set)
{
    const struct {
        const char *name;
        struct list *list;
    } sets[] = { { "app ", &h->app }, { "health ", &h->health }, { "control ", &h->control } };
    *set = NULL;
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        size_t n = strlen(sets[i].name);
        if (strncmp(text, sets[i].name, n) != 0)
            continue;
        *set = sets[i].list;
        return text + n;
    }
    return NULL;
}

/* Returns 0, 1 at the end, or -errno. */
static int
read_line(char *line, struct handover *h, struct list **set)
{
    int systemd_fds, n = 0;
    long long rotate_ns;
    line[strcspn(line, "\n")] = '\0';
    if (strcmp(line, "end") == 0)
        return 1;
    if (sscanf(line, "workers %u %u", &h->workers, &h->wanted) == 2)
        return 0;
    if (sscanf(line, "systemd %d", &systemd_fds) == 1) {
        inherited_adopt(systemd_fds);
        return 0;
    }
    if (sscanf(line, "tickets %lld %n", &rotate_ns, &n) == 1 && n > 0) {
        h->rotate_ns = rotate_ns;
        return read_tickets(line + n, h);
    }
    if (sscanf(line, "metrics %d", &h->metrics_fd) == 1) {
        (void)fcntl(h->metrics_fd, F_SETFD, FD_CLOEXEC);
        return 0;
    }
    if (strncmp(line, "bound ", 6) == 0) {
        const char *words = set_of(line + 6, h, set);
        return words != NULL ? bound_read(words, *set) : 0;
    }
    if (strncmp(line, "socket ", 7) == 0 && *set != NULL)
        return bound_read_socket(line + 7, *set);
    return 0;
}

static int
read_all(FILE *in, struct handover *h)
{
    char line[LINE_SIZE];
    struct list *set = NULL;
    int format, state = 0;
    if (fgets(line, sizeof(line), in) == NULL || sscanf(line, "ringcorn %d", &format) != 1)
        return -EBADMSG;
    if (format != FORMAT)
        return -EPROTO;
    while (state == 0 && fgets(line, sizeof(line), in) != NULL)
        state = read_line(line, h, &set);
    OPENSSL_cleanse(line, sizeof(line));
    return state == 1 ? 0 : state < 0 ? state : -EBADMSG;
}

int
handover_read(struct handover *h)
{
    const char *text = getenv(HANDOVER_VARIABLE);
    int fd, channel, pid, from;
    bool is_meant = text != NULL && sscanf(text, "%d:%d:%d:%d", &fd, &channel, &pid, &from) == 4 &&
                    pid == (int)getpid();
    unsetenv(HANDOVER_VARIABLE);
    if (!is_meant)
        return 0;
    *h = (struct handover){ .channel = channel, .from = from, .metrics_fd = -1 };
    list_init(&h->app);
    list_init(&h->health);
    list_init(&h->control);
    (void)fcntl(channel, F_SETFD, FD_CLOEXEC);
    FILE *in = lseek(fd, 0, SEEK_SET) == 0 ? fdopen(fd, "r") : NULL;
    int err = -errno;
    if (in != NULL) {
        setvbuf(in, NULL, _IONBF, 0);
        err = read_all(in, h);
        fclose(in);
    }
    if (err < 0) {
        log_operator("cannot take over from process %d: %s", (int)h->from,
                     err == -EPROTO ? "it speaks another version; start this program anew"
                                    : strerror(-err));
        handover_fini(h);
        close(channel);
        return -EXIT_CODE_SYSTEM;
    }
    return 1;
}

void
handover_fini(struct handover *h)
{
    struct list *sets[] = { &h->app, &h->health, &h->control };
    for (size_t i = 0; i < ARRAY_LEN(sets); i++)
        for (struct list *node; (node = list_pop(sets[i])) != NULL;)
            bound_free(CONTAINER_OF(node, struct bound, node));
    if (h->metrics_fd >= 0)
        close(fd_take(&h->metrics_fd));
    OPENSSL_cleanse(h->tickets, sizeof(h->tickets));
}

void
handover_forget(const struct handover *h)
{
    const struct list *sets[] = { &h->app, &h->health, &h->control };
    for (size_t i = 0; i < ARRAY_LEN(sets); i++)
        BOUNDS_EACH(b, sets[i])
            for (unsigned k = 0; k < b->n; k++)
                close(b->v[k].fd);
    if (h->metrics_fd >= 0)
        close(h->metrics_fd);
}

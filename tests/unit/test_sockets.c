/* The set of listening sockets: what a configuration opens, what another one changes, and that a
 * failed change changes nothing. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "master/sockets.h"
#include "tap.h"

static char folder[] = "/tmp/ringcorn-test-sockets.XXXXXX";

static struct conf_bind
tcp(char *host, uint16_t port)
{
    return (struct conf_bind){ .kind = CONF_BIND_TCP, .text = host, .host = host, .port = port };
}

static struct conf_bind
unix_path(char *path)
{
    return (struct conf_bind){ .kind = CONF_BIND_UNIX, .text = path, .path = path };
}

static struct conf
conf_of(struct conf_bind *binds, size_t n)
{
    return (struct conf){
        .binds = binds, .binds_n = n, .uds_mode = 0600, .backlog = 16, .reuse_port = true
    };
}

static struct bound *
nth(const struct sockets *s, unsigned n)
{
    BOUNDS_EACH(b, &s->bounds)
        if (n-- == 0)
            return b;
    return NULL;
}

static unsigned
count(const struct list *bounds)
{
    unsigned n = 0;
    BOUNDS_EACH(b, bounds)
        n += b->n > 0;
    return n;
}

static uint16_t
port_of(const struct bound *b)
{
    return ntohs(((const struct sockaddr_in *)&b->addr)->sin_port);
}

static int
open_set(struct sockets *s, const struct conf *conf, unsigned slots)
{
    struct sockets_change change;
    int code = sockets_prepare(s, conf, slots, &change);
    if (code == 0)
        sockets_commit(s, &change);
    return code;
}

/* A blocking connect with a bound: 0 or -errno. */
static int
connect_to(uint16_t port, int *out)
{
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_port = htons(port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval patience = { .tv_usec = 300 * 1000 };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    int err = connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
    if (err < 0 || out == NULL)
        close(fd);
    else
        *out = fd;
    return err;
}

static void
test_one_socket_a_slot(void)
{
    struct sockets s;
    struct conf_bind bind = tcp("127.0.0.1", 0);
    struct conf conf = conf_of(&bind, 1);
    sockets_init(&s);
    CHECK(open_set(&s, &conf, 3) == 0);
    struct bound *b = nth(&s, 0);
    ok(b != NULL && b->n == 3 && b->is_per_slot && port_of(b) != 0, "port 0 is resolved");
    bool is_same = true, has_own_id = true;
    for (unsigned i = 0; i < b->n; i++) {
        struct sockaddr_in a;
        socklen_t n = sizeof(a);
        getsockname(b->v[i].fd, (struct sockaddr *)&a, &n);
        is_same &= ntohs(a.sin_port) == port_of(b);
        has_own_id &= b->v[i].slot == (int)i && (i == 0 || b->v[i].id != b->v[i - 1].id) &&
                      !b->v[i].is_listening;
    }
    ok(is_same, "and the same for every slot");
    ok(has_own_id, "each has an id and a slot, and does not listen yet");
    CHECK(connect_to(port_of(b), NULL) == -ECONNREFUSED);
    CHECK(sockets_listen(&s, 1, &conf) == 0);
    ok(b->v[1].is_listening && !b->v[0].is_listening && !b->v[2].is_listening,
       "only the slot that is ready listens");
    CHECK(connect_to(port_of(b), NULL) == 0);
    ok(sockets_are_waiting(&s), "a connection waits in the queue");
    CHECK(sockets_grow(&s, 5, &conf) == 0 && b->n == 5 && b->v[4].slot == 4);
    sockets_fini(&s);
}

static void
test_shared_without_reuse_port(void)
{
    struct sockets s;
    struct conf_bind bind = tcp("127.0.0.1", 0);
    struct conf conf = conf_of(&bind, 1);
    conf.reuse_port = false;
    sockets_init(&s);
    CHECK(open_set(&s, &conf, 4) == 0);
    ok(nth(&s, 0)->n == 1 && nth(&s, 0)->v[0].slot == SLOT_SHARED, "one socket for all");
    CHECK(sockets_listen(&s, 3, &conf) == 0 && nth(&s, 0)->v[0].is_listening);
    sockets_fini(&s);
}

static void
test_port_in_use(void)
{
    struct sockets a, b;
    struct conf_bind bind = tcp("127.0.0.1", 0);
    struct conf conf = conf_of(&bind, 1);
    sockets_init(&a);
    sockets_init(&b);
    CHECK(open_set(&a, &conf, 2) == 0);
    bind.port = port_of(nth(&a, 0));
    ok(open_set(&b, &conf, 2) == 0, "two that only bound do not see each other");
    CHECK(sockets_listen(&a, 0, &conf) == 0);
    ok(sockets_listen(&b, 0, &conf) == -EXIT_CODE_SYSTEM, "the second to listen does");
    sockets_fini(&b);
    ok(open_set(&b, &conf, 2) == -EXIT_CODE_SYSTEM && list_is_empty(&b.bounds),
       "one that starts later is refused");
    conf.reuse_port = false;
    ok(open_set(&b, &conf, 2) == -EXIT_CODE_SYSTEM, "with a shared socket too");
    sockets_fini(&a);
    ok(open_set(&b, &conf, 2) == 0, "free again");
    sockets_fini(&b);
}

static void
test_a_change(void)
{
    struct sockets s;
    struct sockets_change change;
    struct conf_bind first[] = { tcp("127.0.0.1", 0), tcp("127.0.0.2", 0) };
    struct conf conf = conf_of(first, 2);
    sockets_init(&s);
    CHECK(open_set(&s, &conf, 2) == 0 && sockets_listen(&s, 0, &conf) == 0);
    int32_t kept_id = nth(&s, 0)->v[0].id;
    uint16_t gone_port = port_of(nth(&s, 1));
    struct conf_bind second[] = { tcp("127.0.0.1", 0), tcp("127.0.0.3", 0) };
    struct conf next = conf_of(second, 2);

    CHECK(sockets_prepare(&s, &next, 2, &change) == 0);
    ok(count(&change.fresh) == 1 && count(&s.bounds) == 2, "only what is new is opened");
    sockets_abort(&change);
    ok(count(&s.bounds) == 2 && nth(&s, 1)->v[0].is_listening, "given up: as before");

    CHECK(sockets_prepare(&s, &next, 2, &change) == 0);
    CHECK(sockets_change_listen(&s, &change, 0) == 0);
    sockets_commit(&s, &change);
    ok(count(&s.bounds) == 2 && nth(&s, 0)->v[0].id == kept_id,
       "what is in both configurations is kept, port 0 too");
    ok(count(&s.leaving) == 1 &&
           port_of(CONTAINER_OF(s.leaving.next, struct bound, node)) == gone_port,
       "what is not, leaves");

    struct conf_bind third[] = { tcp("127.0.0.1", 0), tcp("192.0.2.1", 1) };
    struct conf bad = conf_of(third, 2);
    ok(sockets_prepare(&s, &bad, 2, &change) == -EXIT_CODE_SYSTEM && count(&s.bounds) == 2,
       "one bad address spoils the change");
    sockets_fini(&s);
}

static void
test_shut_doors(void)
{
    struct sockets s;
    struct conf_bind bind = tcp("127.0.0.1", 0);
    struct conf conf = conf_of(&bind, 1);
    int client = -1;
    sockets_init(&s);
    CHECK(open_set(&s, &conf, 1) == 0 && sockets_listen(&s, 0, &conf) == 0);
    uint16_t port = port_of(nth(&s, 0));
    CHECK(connect_to(port, &client) == 0);
    sockets_shut_doors(&s);
    ok(connect_to(port, NULL) == -EINPROGRESS, "nobody new gets an answer");
    ok(sockets_are_waiting(&s), "who was in the queue is still there");
    int fd = accept(nth(&s, 0)->v[0].fd, NULL, NULL);
    char c = 0;
    CHECK(fd >= 0 && send(client, "x", 1, 0) == 1);
    usleep(20000);
    ok(recv(fd, &c, 1, MSG_DONTWAIT) == 1 && c == 'x', "and is served");
    CHECK(send(fd, "y", 1, 0) == 1 && recv(client, &c, 1, 0) == 1 && c == 'y');
    CHECK(!sockets_are_waiting(&s));
    close(fd);
    close(client);
    sockets_fini(&s);
    CHECK(connect_to(port, NULL) == -ECONNREFUSED);
}

static void
test_unix(void)
{
    struct sockets s, other;
    struct stat st;
    char path[128], text[128];
    snprintf(path, sizeof(path), "%s/app.sock", folder);
    struct conf_bind bind = unix_path(path);
    struct conf conf = conf_of(&bind, 1);
    conf.uds_mode = 0620;
    sockets_init(&s);
    sockets_init(&other);
    mode_t mask = umask(022);
    CHECK(open_set(&s, &conf, 2) == 0 && lstat(path, &st) == 0);
    ok(S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0620,
       "the mode is as asked, whatever the umask");
    ok(umask(mask) == 022, "the umask is as before");
    CHECK(sockets_listen(&s, 0, &conf) == 0);
    ok(open_set(&other, &conf, 2) == -EXIT_CODE_SYSTEM, "a live server is left alone");
    conf.uds_mode = 0666;
    CHECK(open_set(&s, &conf, 2) == 0 && count(&s.bounds) == 1);
    ok(lstat(path, &st) == 0 && (st.st_mode & 07777) == 0666,
       "another configuration changes the mode");

    /* Somebody replaces the file: it is not ours to remove any more, and a reload may not take
     * it either. */
    CHECK(unlink(path) == 0);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    ok(open_set(&s, &conf, 2) == -EXIT_CODE_SYSTEM && count(&s.bounds) == 1,
       "a file in its place is an error");
    sockets_fini(&s);
    ok(lstat(path, &st) == 0 && S_ISREG(st.st_mode), "and stays");
    close(fd);
    CHECK(unlink(path) == 0);

    CHECK(open_set(&s, &conf, 2) == 0);
    sockets_fini(&s);
    ok(lstat(path, &st) < 0 && errno == ENOENT, "ours is removed at the end");

    memset(text, 'x', sizeof(text) - 1);
    text[0] = '/';
    text[sizeof(text) - 1] = '\0';
    bind = unix_path(text);
    ok(open_set(&s, &conf, 2) == -EXIT_CODE_SYSTEM, "a path longer than sun_path");
}

static void
test_unix_per_slot(void)
{
    struct sockets s;
    struct stat st;
    char path[128], first[128], third[128];
    snprintf(path, sizeof(path), "%s/app-{slot}.sock", folder);
    snprintf(first, sizeof(first), "%s/app-0.sock", folder);
    snprintf(third, sizeof(third), "%s/app-2.sock", folder);
    struct conf_bind bind = unix_path(path);
    struct conf conf = conf_of(&bind, 1);
    sockets_init(&s);
    CHECK(open_set(&s, &conf, 2) == 0 && count(&s.bounds) == 1 && nth(&s, 0)->n == 2);
    struct bound *b = nth(&s, 0);
    ok(b->is_per_slot && b->v[1].slot == 1 && lstat(first, &st) == 0 && S_ISSOCK(st.st_mode) &&
           (st.st_mode & 07777) == 0600 && lstat(third, &st) < 0,
       "a file for each slot");
    CHECK(sockets_listen(&s, 1, &conf) == 0);
    ok(b->v[0].is_listening && b->v[1].is_listening, "all of them listen once one is served");
    CHECK(sockets_grow(&s, 3, &conf) == 0 && b->n == 3);
    ok(lstat(third, &st) == 0 && !b->v[2].is_listening, "one more slot, one more file");

    int32_t id = b->v[0].id, kept = b->v[1].id;
    CHECK(unlink(first) == 0);
    CHECK(open_set(&s, &conf, 3) == 0 && count(&s.bounds) == 1 && nth(&s, 0) == b);
    ok(lstat(first, &st) == 0 && b->v[0].id != id && !b->v[0].is_listening && b->v[1].id == kept &&
           b->v[1].is_listening,
       "a file that was removed is made anew, the others stay");
    conf.uds_mode = 0666;
    CHECK(open_set(&s, &conf, 3) == 0);
    ok(lstat(first, &st) == 0 && (st.st_mode & 07777) == 0666 && lstat(third, &st) == 0 &&
           (st.st_mode & 07777) == 0666,
       "another configuration changes the mode of all");

    struct conf_bind shared = unix_path(first);
    struct sockets other;
    conf = conf_of(&shared, 1);
    sockets_init(&other);
    CHECK(sockets_listen(&s, 0, &conf) == 0);
    ok(open_set(&other, &conf, 1) == -EXIT_CODE_SYSTEM, "a slot's file is left alone by others");
    sockets_fini(&s);
    ok(lstat(first, &st) < 0 && lstat(third, &st) < 0, "all are removed at the end");
}

static void
test_inherited(void)
{
    struct sockets s;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct conf_bind bind = { .kind = CONF_BIND_FD, .text = "fd://N", .fd = fd };
    struct conf conf = conf_of(&bind, 1);
    sockets_init(&s);
    if (bind.fd < 0 || bind.kind != CONF_BIND_FD)
        _exit(2);
    ok(open_set(&s, &conf, 2) == -EXIT_CODE_SYSTEM, "does not listen");
    CHECK(bind.fd == fd && fcntl(fd, F_GETFD) == 0);
    if (listen(fd, 1) < 0 || getsockname(fd, (struct sockaddr *)&a, &(socklen_t){ sizeof(a) }) < 0)
        _exit(2);
    CHECK(open_set(&s, &conf, 2) == 0 && nth(&s, 0)->v[0].fd == fd &&
          nth(&s, 0)->v[0].is_listening);
    CHECK(open_set(&s, &conf, 2) == 0 && count(&s.bounds) == 1);
    sockets_shut_doors(&s);
    ok(connect_to(ntohs(a.sin_port), NULL) == 0, "a socket that others own too is not shut");
    struct conf_bind own = { .kind = CONF_BIND_FD, .text = "fd://N", .fd = 1000 };
    struct conf wrong = conf_of(&own, 1);
    ok(open_set(&s, &wrong, 2) == -EXIT_CODE_SYSTEM, "no such descriptor");
    sockets_fini(&s);
}

int
main(void)
{
    if (mkdtemp(folder) == NULL)
        return 2;
    test_one_socket_a_slot();
    test_shared_without_reuse_port();
    test_port_in_use();
    test_a_change();
    test_shut_doors();
    test_unix();
    test_unix_per_slot();
    test_inherited();
    rmdir(folder);
    return tap_done();
}

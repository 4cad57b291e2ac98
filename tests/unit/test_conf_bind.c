/* Addresses. */
#include <errno.h>

#include "conf_load.h"

static const struct {
    const char *text;
    enum conf_bind_kind kind;
    const char *where; /* host or path */
    int number;        /* port or descriptor */
} good[] = {
    { "127.0.0.1:8000", CONF_BIND_TCP, "127.0.0.1", 8000 },
    { "0.0.0.0:0", CONF_BIND_TCP, "0.0.0.0", 0 },
    { "localhost:65535", CONF_BIND_TCP, "localhost", 65535 },
    { "my-host_1.example:80", CONF_BIND_TCP, "my-host_1.example", 80 },
    { ":9000", CONF_BIND_TCP, "", 9000 },
    { "*:9000", CONF_BIND_TCP, "", 9000 },
    { "9000", CONF_BIND_TCP, "127.0.0.1", 9000 },
    { "0.0.0.0", CONF_BIND_TCP, "0.0.0.0", 8000 },
    { "localhost", CONF_BIND_TCP, "localhost", 8000 },
    { "[::1]:80", CONF_BIND_TCP, "::1", 80 },
    { "[::]", CONF_BIND_TCP, "::", 8000 },
    { "[fe80::1%eth0]:80", CONF_BIND_TCP, "fe80::1%eth0", 80 },
    { "unix:/run/x.sock", CONF_BIND_UNIX, "/run/x.sock", 0 },
    { "unix:///run/x.sock", CONF_BIND_UNIX, "/run/x.sock", 0 },
    { "unix:/run/x-{slot}.sock", CONF_BIND_UNIX, "/run/x-{slot}.sock", 0 },
    { "unix:x.sock", CONF_BIND_UNIX, "x.sock", 0 },
    { "fd://3", CONF_BIND_FD, NULL, 3 },
    { "systemd", CONF_BIND_SYSTEMD, NULL, -1 },
};

static const struct {
    const char *text, *why;
} bad[] = {
    { "", "is not an address" },
    { "host:", "has no port" },
    { "host:x", "has no port" },
    { "host:65536", "has no port" },
    { "host:-1", "has no port" },
    { "host: 80", "has no port" },
    { "host:99999999999999999999", "has no port" },
    { "65536", "has no port" },
    { "::1", "has several colons; an address of IPv6 goes in brackets" },
    { "a:1:2", "has several colons" },
    { "[::1", "is not of the form [v6]:port" },
    { "[::1]80", "is not of the form [v6]:port" },
    { "[::1]:", "has no port" },
    { "[1.2.3.4]:80", "has no address of IPv6" },
    { "[]:80", "has no address of IPv6" },
    { "[::1%]:80", "has no address of IPv6" },
    { "1.2.3:80", "does not begin with an address" },
    { "1.2.3.256:80", "does not begin with an address" },
    { "a b:80", "does not begin with an address" },
    { "/run/x.sock", "does not begin with an address" },
    { "ftp://localhost:80", "is not an address" },
    { "https://unix:/x", "has a scheme, which is only for host:port" },
    { "http://fd://3", "has a scheme, which is only for host:port" },
    { "https://", "is not an address" },
    { "tcp://x", "is not an address" },
    { "fd://", "names no descriptor" },
    { "fd://x", "names no descriptor" },
    { "fd://99999999999", "names no descriptor" },
    { "unix:", "has no path" },
    { "unix:/run/{slot}/{slot}", "names {slot} twice" },
};

static void
test_tables(void)
{
    char why[160];
    struct conf_bind b;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        int error = bind_parse(good[i].text, &b, why, sizeof(why));
        const char *where = error < 0 ? NULL : b.kind == CONF_BIND_UNIX ? b.path : b.host;
        bool is_right = error == 0 && b.kind == good[i].kind && strcmp(b.text, good[i].text) == 0 &&
                        (where == NULL) == (good[i].where == NULL) &&
                        (where == NULL || strcmp(where, good[i].where) == 0) &&
                        (b.kind != CONF_BIND_TCP || b.port == good[i].number) &&
                        (b.kind != CONF_BIND_FD || b.fd == good[i].number);
        ok(is_right, "%s", good[i].text);
        if (error == 0)
            bind_free(&b);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int error = bind_parse(bad[i].text, &b, why, sizeof(why));
        ok(error == -EINVAL && strncmp(why, bad[i].why, strlen(bad[i].why)) == 0, "'%s' %s",
           bad[i].text, bad[i].why);
    }
    char path[200] = "unix:/";
    memset(path + 6, 'x', 106);
    CHECK(bind_parse(path, &b, why, sizeof(why)) == 0 && strlen(b.path) == 107);
    bind_free(&b);
    path[112] = 'x';
    CHECK(bind_parse(path, &b, why, sizeof(why)) == -EINVAL &&
          strstr(why, "longer path than the 107") != NULL);
}

/* Is this load's only address host:port? */
static bool
listens(const struct loaded *l, const char *host, int port)
{
    return l->result == 0 && l->conf->binds_n == 1 && l->conf->binds[0].kind == CONF_BIND_TCP &&
           strcmp(l->conf->binds[0].host, host) == 0 && l->conf->binds[0].port == port;
}

static void
test_options(void)
{
    CHECK(listens(LOAD("a:b"), "127.0.0.1", 8000));
    CHECK(listens(LOAD("a:b", "--port", "9"), "127.0.0.1", 9));
    CHECK(listens(LOAD("a:b", "--host", "0.0.0.0"), "0.0.0.0", 8000));
    CHECK(listens(LOAD("a:b", "--host", "::1", "--port=9"), "::1", 9));
    CHECK(listens(LOAD("a:b", "--host", "[::1]"), "::1", 8000));
    CHECK(listens(LOAD("a:b", "--host", "", "--port", "1"), "", 1));
    struct loaded *l = LOAD("a:b", "--uds", "/x");
    CHECK(l->result == 0 && l->conf->binds_n == 1 && strcmp(l->conf->binds[0].path, "/x") == 0);
    l = LOAD("a:b", "--fd", "4");
    CHECK(l->result == 0 && l->conf->binds_n == 1 && l->conf->binds[0].fd == 4);
    l = LOAD("a:b", "-b", ":1", "--bind=unix:/x,:2");
    CHECK(l->result == 0 && l->conf->binds_n == 3 && l->conf->binds[2].port == 2);

    CHECK(has_line(LOAD("a:b", "--port", "x"), "--port: 'x' is not a port from 0 to 65535"));
    CHECK(has_line(LOAD("a:b", "--host", "unix:/x"),
                   "--host: 'unix:/x' is not an address or a host's name"));
    CHECK(has_line(LOAD("a:b", "--host", "h", "-b", ":1"),
                   "--host: cannot be combined with another address; give each as --bind"));
    CHECK(has_line(LOAD("a:b", "--uds", "h", "--port", "1"),
                   "--uds: cannot be combined with another address; give each as --bind"));
    CHECK(has_line(LOAD("a:b", "-b", ":1", "-b", ":1"), "-b: :1 is there twice"));
    CHECK(LOAD("a:b", "-b", ":0", "-b", ":0")->result == 0);
    CHECK(has_line(LOAD("a:b", "-b", "unix:/x{slot}", "-b", "unix:/x12"),
                   "-b: unix:/x12 is there twice"));
    CHECK(has_line(LOAD("a:b", "-b", "unix:/x1y", "-b", "unix:/x{slot}y"),
                   "-b: unix:/x{slot}y is there twice"));
    CHECK(LOAD("a:b", "-b", "unix:/x{slot}", "-b", "unix:/x", "-b", "unix:/x1y")->result == 0);
    CHECK(has_line(load_yaml_text("bind: []\n"),
                   "t.yaml:1: bind: has no entry; without an address nobody can ask anything"));
}

int
main(void)
{
    test_begin();
    test_tables();
    test_options();
    return test_end();
}

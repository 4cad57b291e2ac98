/* upstream.c: the addresses of `bind` as nginx's upstream block. */
#include <stdlib.h>

#include "conf/load.h"

enum {
    NGINX_KEEPALIVE_MS = 60 * 1000, /* nginx's own default of keepalive_timeout */
    NGINX_CONNECTIONS = 32,         /* idle ones that each worker of nginx keeps */
};

/* A path as nginx reads it: in quotes where it has to be. */
static void
print_server(const char *address, FILE *out)
{
    bool is_plain = address[strcspn(address, " \t;{}\"'\\$#")] == '\0';
    fputs("    server ", out);
    if (!is_plain)
        fputc('"', out);
    for (const char *p = address; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\')
            fputc('\\', out);
        fputc(*p, out);
    }
    if (!is_plain)
        fputc('"', out);
    /* One failure must not take a server away for ten seconds: another worker serves it at once. */
    fputs(" max_fails=0;\n", out);
}

static int
print_unix(const struct conf *conf, const struct conf_bind *bind, FILE *out)
{
    MEM_OWNED char *path = absolute_path(bind->path);
    const char *mark = path != NULL ? strstr(path, BIND_SLOT) : NULL;
    if (path == NULL)
        return -1;
    for (unsigned slot = 0; slot < (mark != NULL ? conf->workers : 1); slot++) {
        char *address;
        int n = mark == NULL ? asprintf(&address, "unix:%s", path)
                             : asprintf(&address, "unix:%.*s%u%s", (int)(mark - path), path, slot,
                                        mark + strlen(BIND_SLOT));
        if (n < 0)
            return -1;
        print_server(address, out);
        free(address);
    }
    return 0;
}

static int
print_tcp(const struct conf_bind *bind, FILE *out)
{
    const char *host = bind->host;
    char *address;
    if (bind->port == 0) {
        fprintf(out, "    # %s: the port is chosen at start\n", bind->text);
        return 0;
    }
    if (host[0] == '\0' ||
        strcmp(host, "0.0.0.0") == 0) /* all addresses: nginx beside it takes this */
        host = "127.0.0.1";
    else if (strcmp(host, "::") == 0)
        host = "::1";
    if (asprintf(&address, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, bind->port) < 0)
        return -1;
    print_server(address, out);
    free(address);
    return 0;
}

int
conf_print_upstream(const struct conf *conf, FILE *out)
{
    fputs("upstream ringcorn {\n", out);
    if (conf->proxy_protocol != PROXY_PROTOCOL_OFF)
        fputs("    # proxy.protocol is on: nginx speaks it in its stream module alone "
              "(proxy_protocol on)\n",
              out);
    for (size_t i = 0; i < conf->binds_n; i++) {
        const struct conf_bind *bind = &conf->binds[i];
        int err = 0;
        if (bind->kind == CONF_BIND_UNIX)
            err = print_unix(conf, bind, out);
        else if (bind->kind == CONF_BIND_TCP)
            err = print_tcp(bind, out);
        else
            fprintf(out, "    # %s: whoever opened the socket knows its address\n", bind->text);
        if (err < 0)
            return -1;
    }
    fprintf(out, "    keepalive %d;\n", NGINX_CONNECTIONS);
    /* Whoever closes an idle connection must not be asked on it at that moment: nginx closes first. */
    int64_t ms = conf->timeout_keep_alive_ms;
    if (ms > 0 && ms <= NGINX_KEEPALIVE_MS)
        fprintf(out, "    keepalive_timeout %lldms;\n",
                (long long)(ms * 4 / 5 > 0 ? ms * 4 / 5 : 1));
    fputs("}\n", out);
    return 0;
}

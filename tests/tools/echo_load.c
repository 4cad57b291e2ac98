/* echo_load.c: many connections that wait for the echo of what they send, for `make bench-loop`: one thread over epoll. echo_load.py builds
 * and runs it.
 *
 *     echo_load tcp|tls|udp -n CONNECTIONS -b BYTES -s SECONDS HOST PORT
 *
 * Every connection sends a message, waits until all of it has come back, and sends the next. Connections (and TLS handshakes) are made
 * first; then it prints "open" and waits for a line on standard input, so that the caller can read clocks; the last line is JSON, after
 * which it waits for the end of standard input before it closes anything. What comes back is compared with what was sent. A datagram that
 * is not back after RESEND_MS is sent again and counted as lost. Anything unexpected: a line on standard error and exit code 1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    RESEND_MS = 200,
    QUIET_MS = 20 * 1000, /* without any event something is wrong */
    OPENING_S = 60,       /* all connections are made within, or it ends by SIGALRM */
    BUFFER = 256 * 1024,
    CONNECTIONS_MAX = 10000,
    DATAGRAM_MAX = 65507,
    NUMBER = 8, /* bytes of a datagram that tell it from the one before */
};

enum mode { TCP, TLS, UDP };

struct client {
    int fd;
    SSL *ssl;
    size_t sent, got; /* bytes of the message under way */
    uint64_t number;  /* of the datagram under way */
    double sent_at;
    bool waits;     /* for its echo */
    bool wants_out; /* EPOLLOUT is asked for */
};

static enum mode mode;
static size_t size = 1024;
static char *message, *buffer;
static uint64_t messages, lost;
static int epoll_fd;

__attribute__((noreturn, format(printf, 1, 2))) static void
fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
ask_for(struct client *c, bool out)
{
    if (c->wants_out == out)
        return;
    struct epoll_event event = { .events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
    c->wants_out = out;
}

/* Bytes, 0 where it would block; does not return on an error. */
static size_t
send_some(struct client *c, const char *p, size_t n)
{
    if (c->ssl != NULL) {
        size_t done = 0;
        if (SSL_write_ex(c->ssl, p, n, &done))
            return done;
        int why = SSL_get_error(c->ssl, 0);
        if (why != SSL_ERROR_WANT_WRITE && why != SSL_ERROR_WANT_READ)
            fail("TLS, writing: %s", ERR_reason_error_string(ERR_peek_error()));
        return 0;
    }
    ssize_t done = send(c->fd, p, n, MSG_NOSIGNAL);
    if (done < 0 && errno != EAGAIN)
        fail("send: %s", strerror(errno));
    return done < 0 ? 0 : (size_t)done;
}

static size_t
receive_some(struct client *c)
{
    if (c->ssl != NULL) {
        size_t done = 0;
        if (SSL_read_ex(c->ssl, buffer, BUFFER, &done))
            return done;
        int why = SSL_get_error(c->ssl, 0);
        if (why != SSL_ERROR_WANT_WRITE && why != SSL_ERROR_WANT_READ)
            fail("TLS, reading: %s", ERR_reason_error_string(ERR_peek_error()));
        return 0;
    }
    ssize_t done = recv(c->fd, buffer, BUFFER, 0);
    if (done == 0 && mode != UDP)
        fail("the server has closed the connection");
    if (done < 0 && errno != EAGAIN)
        fail("recv: %s", strerror(errno));
    return done < 0 ? 0 : (size_t)done;
}

static void
go_on_sending(struct client *c)
{
    while (c->sent < size) {
        size_t n = send_some(c, message + c->sent, size - c->sent);
        if (n == 0)
            break;
        c->sent += n;
    }
    ask_for(c, c->sent < size);
}

static void
begin(struct client *c)
{
    c->waits = true;
    c->sent = c->got = 0;
    if (mode != UDP) {
        go_on_sending(c);
        return;
    }
    c->number++;
    memcpy(message, &c->number, NUMBER);
    c->sent_at = now();
    if (send(c->fd, message, size, 0) < 0 && errno != EAGAIN)
        fail("send: %s", strerror(errno));
}

/* True when the echo is complete. */
static bool
take(struct client *c)
{
    size_t n;
    while ((n = receive_some(c)) > 0) {
        if (mode == UDP) {
            uint64_t number;
            memcpy(&number, buffer, NUMBER);
            if (n != size || memcmp(buffer + NUMBER, message + NUMBER, size - NUMBER) != 0)
                fail("a datagram of %zu bytes that was not sent", n);
            if (number != c->number || !c->waits)
                continue; /* one that was given up */
            return true;
        }
        if (c->got + n > c->sent || memcmp(buffer, message + c->got, n) != 0)
            fail("an echo that was not sent (%zu bytes at %zu of %zu)", n, c->got, size);
        c->got += n;
        if (c->got == size)
            return true;
    }
    return false;
}

static void
open_client(struct client *c, const struct sockaddr_in *to, SSL_CTX *context)
{
    c->fd = socket(AF_INET, (mode == UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)to, sizeof *to) < 0)
        fail("connect: %s", strerror(errno));
    int one = 1;
    if (mode != UDP)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (mode == TLS) {
        c->ssl = SSL_new(context);
        SSL_set_fd(c->ssl, c->fd);
        if (SSL_connect(c->ssl) != 1)
            fail("TLS handshake: %s", ERR_reason_error_string(ERR_peek_error()));
    }
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
    int on = 1;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
        fail("epoll_ctl: %s", strerror(errno));
    if (ioctl(c->fd, FIONBIO, &on) < 0)
        fail("FIONBIO: %s", strerror(errno));
}

static void
resend_lost(struct client *clients, unsigned n, double at)
{
    for (unsigned i = 0; i < n; i++)
        if (clients[i].waits && at - clients[i].sent_at > RESEND_MS / 1e3) {
            lost++;
            begin(&clients[i]);
        }
}

int
main(int argc, char **argv)
{
    unsigned clients_n = 1;
    double seconds = 1;
    int option;

    if (argc > 1)
        mode = strcmp(argv[1], "tls") == 0 ? TLS : strcmp(argv[1], "udp") == 0 ? UDP : TCP;
    optind = 2;
    while ((option = getopt(argc, argv, "n:b:s:")) != -1) {
        if (option == 'n')
            clients_n = (unsigned)atoi(optarg);
        else if (option == 'b')
            size = (size_t)atol(optarg);
        else if (option == 's')
            seconds = atof(optarg);
        else
            return 2;
    }
    if (argc - optind != 2 || clients_n < 1 || clients_n > CONNECTIONS_MAX || size < NUMBER ||
        (mode == UDP && size > DATAGRAM_MAX))
        fail("echo_load tcp|tls|udp -n CONNECTIONS -b BYTES -s SECONDS HOST PORT");

    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)atoi(argv[optind + 1])) };
    if (inet_pton(AF_INET, argv[optind], &to.sin_addr) != 1)
        fail("%s: not an address", argv[optind]);
    struct client *clients = calloc(clients_n, sizeof *clients);
    message = malloc(size);
    buffer = malloc(BUFFER);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (clients == NULL || message == NULL || buffer == NULL || epoll_fd < 0)
        fail("no memory");
    for (size_t i = 0; i < size; i++)
        message[i] = (char)(i * 31 + i / 251);
    SSL_CTX *context = NULL;
    if (mode == TLS) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_mode(context,
                         SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    }
    alarm(OPENING_S);
    for (unsigned i = 0; i < clients_n; i++)
        open_client(&clients[i], &to, context);

    alarm(0);

    char line[16];
    puts("open");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        fail("no line on standard input");

    double begun = now(), end = begun + seconds, at = begun, heard = begun;
    unsigned waiting = clients_n;
    for (unsigned i = 0; i < clients_n; i++)
        begin(&clients[i]);
    while (waiting > 0) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll_fd, events, 256, mode == UDP ? RESEND_MS / 4 : QUIET_MS);
        if (n < 0 && errno != EINTR)
            fail("epoll_wait: %s", strerror(errno));
        at = now();
        if (n > 0)
            heard = at;
        else if (at - heard > QUIET_MS / 1e3 * 0.9)
            fail("nothing came for %d s", QUIET_MS / 1000);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            if (c->waits && mode != UDP && c->sent < size)
                go_on_sending(c);
            if (!take(c))
                continue;
            c->waits = false;
            messages++;
            if (at < end)
                begin(c);
            else
                waiting--;
        }
        if (mode == UDP)
            resend_lost(clients, clients_n, at);
    }
    printf("{\"messages\": %llu, \"seconds\": %.6f, \"lost\": %llu}\n",
           (unsigned long long)messages, at - begun, (unsigned long long)lost);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL)
        continue;
    return 0;
}

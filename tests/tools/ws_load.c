/* ws_load.c: many WebSockets at little cost, for `make bench` and `make stress`: one thread over epoll, frames that were masked (and
 * compressed) before the clock runs. ws_load.py builds and runs it.
 *
 *     ws_load echo [options] HOST PORT PATH    each connection sends a message, waits for its echo, sends the next
 *     ws_load hold [options] HOST PORT PATH    they say nothing and listen to broadcasts until standard input ends
 *         -n CONNECTIONS  -d  with permessage-deflate  -b BYTES of a message, -s SECONDS (echo)
 *
 * hold prints "open" once all are open. A broadcast is "B <number, from 0> <CLOCK_MONOTONIC, ns>". The last line is JSON.
 * Every answer is compared with what was sent. With -d the server must agree, and messages of DEFLATE_MIN bytes or more must come
 * compressed, as they are sent. Anything unexpected ends it with a line on standard error and exit code 1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

enum {
    MESSAGES = 64, /* different ones; with the usual 1 KiB they are more than any window holds */
    OPENING_MAX = 100, /* connections in the making at a time (hold) */
    DEFLATE_MIN = 128, /* bytes of a message from which it is compressed */
    WINDOW_BITS = 12,  /* of what we send: no peer agrees to less without being asked */
    BUFFER = 256 * 1024,
    QUIET_MS = 20 * 1000, /* without any event something is wrong */
    TEXT = 0x81,
    RSV1 = 0x40,
    CLOSE = 0x88,
    PING = 0x89,
    PONG = 0x8a,
};

struct message {
    char *text, *frame; /* frame: masked, and compressed where it should be */
    size_t frame_n;
};

enum state { CONNECTING, HANDSHAKE, OPEN, CLOSING, CLOSED };

struct client {
    int fd;
    enum state state;
    unsigned message; /* the one whose echo is awaited, or comes next */
    bool waits;
    uint64_t broadcasts; /* how many came: the number of the next */
    char *rest;          /* of what was read, not yet a whole frame */
    size_t rest_n;
    z_stream *inflate;
};

static bool is_echo, deflates;
static size_t size = 64;
static double seconds = 2;
static unsigned clients_n = 64, opened, opening, ended;
static struct client *clients;
static struct message messages[MESSAGES];
static struct sockaddr_in address;
static const char *host, *port, *path;
static int epoll_fd;
static bool is_stopping;
static uint64_t answered, bytes_in, *delays, delays_n, delays_room;

#define DIE(...) (fprintf(stderr, "ws_load: " __VA_ARGS__), fputc('\n', stderr), exit(1))

static int64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* --- what is sent ------------------------------------------------------------------------------------------------------- */

/* A client's frame, new. */
static char *
frame_new(unsigned first, const char *payload, size_t n, size_t *frame_n)
{
    static const unsigned char mask[4] = { 0x37, 0xfa, 0x21, 0x3d };
    unsigned char *frame = malloc(n + 14), *p = frame;
    *p++ = (unsigned char)first;
    if (n < 126) {
        *p++ = (unsigned char)(0x80 | n);
    } else {
        *p++ = 0x80 | 126; /* size is at most 65535 */
        *p++ = (unsigned char)(n >> 8);
        *p++ = (unsigned char)n;
    }
    memcpy(p, mask, 4);
    p += 4;
    for (size_t i = 0; i < n; i++)
        *p++ = (unsigned char)payload[i] ^ mask[i % 4];
    *frame_n = (size_t)(p - frame);
    return (char *)frame;
}

/* JSON-like text, as a chat or a feed of prices would send it; the same in every run. */
static void
text_fill(char *text, size_t n)
{
    static const char *const words[] = { "price",   "volume", "symbol", "user",
                                         "message", "time",   "room",   "status" };
    static uint64_t seed = 1;
    size_t k = 0;
    while (k < n) {
        char item[64];
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        int m = snprintf(item, sizeof(item), "{\"%s\": %u, \"id\": \"%06x\"}, ", words[seed >> 61],
                         (unsigned)(seed >> 40) % 10000, (unsigned)(seed >> 20) & 0xffffff);
        size_t part = (size_t)m < n - k ? (size_t)m : n - k;
        memcpy(text + k, item, part);
        k += part;
    }
}

/* Each message is compressed on its own, which every receiver takes, whatever was agreed on. */
static void
messages_make(void)
{
    for (unsigned i = 0; i < MESSAGES; i++) {
        struct message *m = &messages[i];
        m->text = malloc(size);
        text_fill(m->text, size);
        if (!deflates || size < DEFLATE_MIN) {
            m->frame = frame_new(TEXT, m->text, size, &m->frame_n);
            continue;
        }
        z_stream z = { 0 };
        if (deflateInit2(&z, 6, Z_DEFLATED, -WINDOW_BITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
            DIE("deflateInit2");
        size_t room = deflateBound(&z, size) + 16;
        char *packed = malloc(room);
        z.next_in = (Bytef *)m->text, z.avail_in = (uInt)size;
        z.next_out = (Bytef *)packed, z.avail_out = (uInt)room;
        if (deflate(&z, Z_SYNC_FLUSH) != Z_OK || z.avail_in > 0)
            DIE("deflate");
        m->frame = frame_new(TEXT | RSV1, packed, room - z.avail_out - 4, &m->frame_n);
        deflateEnd(&z);
        free(packed);
    }
}

static void
put(struct client *c, const char *p, size_t n)
{
    ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL);
    if (sent != (ssize_t)n)
        DIE("send: %s", sent < 0 ? strerror(errno) : "the socket is full");
}

static void
say(struct client *c)
{
    put(c, messages[c->message].frame, messages[c->message].frame_n);
    c->waits = true;
}

/* --- what comes --------------------------------------------------------------------------------------------------------- */

static void
note_broadcast(struct client *c, const char *p, size_t n)
{
    char text[64];
    unsigned long long number, sent_ns;
    if (n >= sizeof(text))
        DIE("a broadcast of %zu bytes", n);
    memcpy(text, p, n);
    text[n] = '\0';
    if (sscanf(text, "B %llu %llu", &number, &sent_ns) != 2)
        DIE("no broadcast: %s", text);
    if (number != c->broadcasts)
        DIE("broadcast %llu is %s: %llu should come next", number,
            number < c->broadcasts ? "doubled" : "ahead, some are lost",
            (unsigned long long)c->broadcasts);
    c->broadcasts++;
    if (delays_n == delays_room &&
        (delays = realloc(delays, (delays_room = delays_room * 2 + 4096) * sizeof(*delays))) ==
            NULL)
        DIE("no memory");
    delays[delays_n++] = (uint64_t)now_ns() - sent_ns;
}

static void
note_open(void)
{
    opened++;
    opening--;
    if (!is_echo && opened == clients_n) {
        puts("open");
        fflush(stdout);
    }
}

static void
on_message(struct client *c, bool is_deflated, const char *p, size_t n)
{
    static char plain[65536];
    if (is_deflated) {
        z_stream *z = c->inflate;
        if (z == NULL) {
            z = c->inflate = calloc(1, sizeof(*z));
            if (!deflates || inflateInit2(z, -15) != Z_OK)
                DIE("a compressed message, which was not agreed on");
        }
        z->next_out = (Bytef *)plain, z->avail_out = sizeof(plain);
        z->next_in = (Bytef *)p, z->avail_in = (uInt)n;
        if (inflate(z, Z_SYNC_FLUSH) < Z_OK)
            DIE("not inflatable: %s", z->msg);
        z->next_in = (Bytef *)"\0\0\xff\xff", z->avail_in = 4;
        if (inflate(z, Z_SYNC_FLUSH) != Z_OK || z->avail_in > 0)
            DIE("not inflatable: %s", z->msg);
        p = plain;
        n = sizeof(plain) - z->avail_out;
    }
    if (!is_echo) {
        note_broadcast(c, p, n);
        return;
    }
    if (!c->waits)
        DIE("a message that nobody asked for");
    if (n != size || memcmp(p, messages[c->message].text, n) != 0)
        DIE("another message than was sent, of %zu bytes", n);
    if (is_deflated != (deflates && size >= DEFLATE_MIN))
        DIE("a message of %zu bytes came %s", n, is_deflated ? "compressed" : "uncompressed");
    c->waits = false;
    answered++;
    c->message = (c->message + 1) % MESSAGES;
    if (!is_stopping)
        say(c);
}

static void
on_close(struct client *c)
{
    if (c->state != CLOSING)
        DIE("closed by the server");
    close(c->fd);
    c->state = CLOSED;
    ended++;
}

/* The answer to the handshake: how long it is, 0 = not whole yet. */
static size_t
on_head(struct client *c, const char *p, size_t n)
{
    const char *end = memmem(p, n, "\r\n\r\n", 4), *found;
    if (end == NULL)
        return 0;
    size_t head_n = (size_t)(end - p) + 4;
    if (n < 12 || memcmp(p, "HTTP/1.1 101", 12) != 0)
        DIE("no WebSocket: %.*s", (int)(n < 300 ? n : 300), p);
    if (deflates != (memmem(p, head_n, "permessage-deflate", 18) != NULL))
        DIE("permessage-deflate %s: %.*s", deflates ? "is not to be had" : "unasked", (int)head_n,
            p);
    if ((found = memmem(p, head_n, "client_max_window_bits=", 23)) != NULL &&
        atoi(found + 23) < WINDOW_BITS)
        DIE("a window of less than %d bits", WINDOW_BITS);
    c->state = OPEN;
    note_open();
    return head_n;
}

/* One frame: how long it is, 0 = not whole yet. */
static size_t
on_frame(struct client *c, const char *p, size_t n)
{
    const unsigned char *u = (const unsigned char *)p;
    if (n < 2)
        return 0;
    size_t head_n = 2, length = u[1];
    if (length == 126) {
        if (n < 4)
            return 0;
        head_n = 4;
        length = (size_t)u[2] << 8 | u[3];
    } else if (length > 126) {
        DIE("a frame that is masked, or too long");
    }
    if (n < head_n + length)
        return 0;
    p += head_n;
    if (u[0] == PING) {
        size_t frame_n;
        char *frame = frame_new(PONG, p, length, &frame_n);
        put(c, frame, frame_n);
        free(frame);
    } else if (u[0] == CLOSE) {
        if (c->state != CLOSING)
            DIE("a Close by the server");
    } else if ((u[0] & ~RSV1) == TEXT) {
        on_message(c, (u[0] & RSV1) != 0, p, length);
    } else {
        DIE("a frame of kind %02x", u[0]);
    }
    return head_n + length;
}

static void
on_readable(struct client *c)
{
    static char buffer[BUFFER];
    size_t have = c->rest_n;
    if (have > 0)
        memcpy(buffer, c->rest, have);
    ssize_t got = recv(c->fd, buffer + have, sizeof(buffer) - have, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        if (got < 0 && c->state != CLOSING)
            DIE("recv: %s", strerror(errno));
        on_close(c);
        return;
    }
    bytes_in += (uint64_t)got;
    have += (size_t)got;
    size_t done = 0, used;
    while (done < have &&
           (used = c->state == HANDSHAKE ? on_head(c, buffer + done, have - done)
                                         : on_frame(c, buffer + done, have - done)) > 0)
        done += used;
    free(c->rest);
    c->rest = NULL;
    if ((c->rest_n = have - done) > 0)
        c->rest = memcpy(malloc(c->rest_n), buffer + done, c->rest_n);
}

/* --- the life of them all ------------------------------------------------------------------------------------------------ */

static void
begin(struct client *c)
{
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        DIE("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    if (connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno != EINPROGRESS)
        DIE("connect: %s", strerror(errno));
    c->state = CONNECTING;
    opening++;
    struct epoll_event event = { .events = EPOLLOUT, .data.ptr = c };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
        DIE("epoll_ctl: %s", strerror(errno));
}

/* Each with a key of its own, as clients have. */
static void
ask(struct client *c)
{
    char request[1024];
    int n = snprintf(
        request, sizeof(request),
        "GET %s HTTP/1.1\r\nHost: %s:%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: %021uA==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
        path, host, port, (unsigned)(c - clients),
        deflates ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    put(c, request, (size_t)n);
}

static void
on_connected(struct client *c)
{
    int err = 0;
    socklen_t n = sizeof(err);
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &n);
    if (err != 0)
        DIE("connect: %s", strerror(err));
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
    c->state = HANDSHAKE;
    ask(c);
}

/* Waits once, and acts on what there is. deadline_ns: when to look up at the latest, 0 = none. */
static void
turn(int64_t deadline_ns)
{
    struct epoll_event events[256];
    int ms = QUIET_MS;
    if (deadline_ns != 0) {
        int64_t left = (deadline_ns - now_ns()) / 1000000 + 1;
        ms = left < 0 ? 0 : left < QUIET_MS ? (int)left : QUIET_MS;
    } else if (!is_echo && opened == clients_n && !is_stopping) {
        ms = -1; /* standard input will tell */
    }
    int n = epoll_wait(epoll_fd, events, 256, ms);
    if (n == 0 && deadline_ns == 0)
        DIE("nothing happens; %u of %u are open", opened, clients_n);
    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;
        if (c == NULL) { /* standard input */
            is_stopping = true;
            epoll_ctl(epoll_fd, EPOLL_CTL_DEL, 0, NULL);
        } else if (c->state == CONNECTING) {
            on_connected(c);
        } else if (c->state != CLOSED) {
            on_readable(c);
        }
    }
}

static void
open_all(void)
{
    for (unsigned i = 0; i < clients_n;) {
        while (i < clients_n && opening < OPENING_MAX) {
            clients[i].message = i % MESSAGES;
            begin(&clients[i++]);
        }
        turn(0);
    }
    while (opened < clients_n)
        turn(0);
}

static void
close_all(void)
{
    static const char payload[2] = { 0x03, (char)0xe8 };
    size_t frame_n;
    char *frame = frame_new(CLOSE, payload, 2, &frame_n);
    for (unsigned i = 0; i < clients_n; i++) {
        clients[i].state = CLOSING;
        put(&clients[i], frame, frame_n);
    }
    free(frame);
    while (ended < clients_n)
        turn(0);
}

static bool
is_any_waiting(void)
{
    for (unsigned i = 0; i < clients_n; i++) {
        if (clients[i].waits)
            return true;
    }
    return false;
}

static int
by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double
delay_ms(double share)
{
    uint64_t i = (uint64_t)(share * (double)delays_n);
    return delays_n == 0 ? 0 : (double)delays[i < delays_n ? i : delays_n - 1] / 1e6;
}

static void
echo(void)
{
    open_all();
    uint64_t head_bytes = bytes_in;
    int64_t began = now_ns(), end = began + (int64_t)(seconds * 1e9);
    for (unsigned i = 0; i < clients_n; i++)
        say(&clients[i]);
    while (now_ns() < end)
        turn(end);
    is_stopping = true;
    while (is_any_waiting())
        turn(0);
    double took = (double)(now_ns() - began) / 1e9;
    uint64_t got = bytes_in - head_bytes;
    close_all();
    printf("{\"messages\": %llu, \"seconds\": %.6f, \"bytes_in\": %llu}\n",
           (unsigned long long)answered, took, (unsigned long long)got);
}

static void
hold(void)
{
    open_all();
    struct epoll_event event = { .events = EPOLLIN };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event) < 0)
        DIE("standard input: %s", strerror(errno));
    while (!is_stopping)
        turn(0);
    close_all();
    uint64_t least = UINT64_MAX, most = 0;
    for (unsigned i = 0; i < clients_n; i++) {
        least = clients[i].broadcasts < least ? clients[i].broadcasts : least;
        most = clients[i].broadcasts > most ? clients[i].broadcasts : most;
    }
    qsort(delays, delays_n, sizeof(*delays), by_size);
    printf("{\"broadcasts_least\": %llu, \"broadcasts_most\": %llu, \"delivered\": %llu, "
           "\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f}\n",
           (unsigned long long)least, (unsigned long long)most, (unsigned long long)delays_n,
           delay_ms(0.5), delay_ms(0.99), delay_ms(1));
}

int
main(int argc, char **argv)
{
    is_echo = argc > 1 && strcmp(argv[1], "echo") == 0;
    if (argc < 2 || (!is_echo && strcmp(argv[1], "hold") != 0))
        DIE("echo or hold");
    for (int option; (option = getopt(argc - 1, argv + 1, "n:b:s:d")) != -1;) {
        if (option == 'n')
            clients_n = (unsigned)atoi(optarg);
        else if (option == 'b')
            size = (size_t)atoi(optarg);
        else if (option == 's')
            seconds = atof(optarg);
        else if (option == 'd')
            deflates = true;
        else
            return 2;
    }
    char **rest = argv + 1 + optind;
    if (argc - 1 - optind != 3 || clients_n == 0 || size == 0 || size > 65535)
        DIE("HOST PORT PATH, at least one connection, messages of 1 to 65535 bytes");
    host = rest[0], port = rest[1], path = rest[2];
    address =
        (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        DIE("%s is no IPv4 address", host);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    clients = calloc(clients_n, sizeof(*clients));
    if (epoll_fd < 0 || clients == NULL)
        DIE("%s", strerror(errno));
    messages_make();
    if (is_echo)
        echo();
    else
        hold();
    return 0;
}

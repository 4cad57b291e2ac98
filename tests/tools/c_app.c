/* c_app.c: the server without Python: `c_app PORT [io_uring|epoll]`. It shows what the C part of a
 * request costs, and lets raw requests be tried by hand. Stops at SIGINT and SIGTERM. Not part of
 * the product. */
#include "c_app.h"

#include <arpa/inet.h>
#include <signal.h>

static volatile sig_atomic_t stop;

static void
on_signal(int signo)
{
    (void)signo;
    stop = 1;
}

int
main(int argc, char **argv)
{
    char why[IO_WHY_SIZE];
    struct io *io;
    static struct c_app app;
    enum io_backend want = argc > 2 && strcmp(argv[2], "epoll") == 0      ? IO_EPOLL
                           : argc > 2 && strcmp(argv[2], "io_uring") == 0 ? IO_URING
                                                                          : IO_AUTO;
    struct sockaddr_in addr = { .sin_family = AF_INET,
                                .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 8000)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 2048) < 0) {
        perror("c_app: listen");
        return 1;
    }
    if (io_open(want, &io, why) < 0) {
        fprintf(stderr, "c_app: %s\n", why);
        return 1;
    }
    struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    c_app_conf(&app);
    c_app_init(&app, io);
    if (listener_open(&app.net, fd) == NULL) {
        perror("c_app: listener");
        return 1;
    }
    fprintf(stderr, "c_app: %s on 127.0.0.1:%d; a connection takes %zu bytes\n", io_name(io),
            ntohs(addr.sin_port), app.ops.size);
    while (!stop)
        c_app_turn(&app, io, -1);
    io_close(io);
    c_app_fini(&app);
    fprintf(stderr,
            "c_app: %lu requests; left: %ld connections, %ld chunks, %ld held, %ld blocks\n",
            app.begun, live.conns, live.chunks, live.held, live.read_blocks);
    return 0;
}

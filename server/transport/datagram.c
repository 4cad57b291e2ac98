/* datagram.c: asyncio's DatagramTransport for sockets of IPv4, IPv6, and for unix sockets that are connected.
 *
 * Receiving. A turn takes DATAGRAMS_A_TURN at most, DATAGRAMS_AT_ONCE by one system call (recvmmsg(2)); it ends with
 * a call that found fewer. Their bytes are copied at once into objects of the right size; addresses are made when they are delivered, and those of
 * peers that were heard of lately are not made again.
 *
 * Sending. sendto() hands a datagram to the kernel before it returns. An address (host, port) with a numeric host is read here; for all
 * else the socket object is asked, so names are resolved and errors are worded as ever.
 *
 * Other sockets (unix ones that are not connected give no sign of room, as it is the receiver's queue that is full; other families) have asyncio's own transport: python/ringcorn/loop.py
 * asks datagram_make(), which returns None for them.
 *
 * Runs on:  the loop's thread, GIL held. */
#include "transport/endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/un.h>

enum {
    DATAGRAMS_AT_ONCE = 4,
    DATAGRAMS_A_TURN = 32,
    /* of IP: 64 KiB, the protocol's own limit */
    PACKET_MAX = TRANSPORT_SCRATCH / DATAGRAMS_AT_ONCE,
    PEERS = 64, /* addresses remembered; a power of two */
    /* 3.13: an empty datagram takes room too, and is sent */
    HEADER = PY_VERSION_HEX >= 0x030d0000 ? 8 : 0,
    LOST_WRITES_QUIET = 5, /* asyncio's LOG_THRESHOLD_FOR_CONNLOST_WRITES */
};

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
};

/* Received and not yet delivered. */
struct arrival {
    PyObject *data; /* new */
    union address from;
    socklen_t from_n;
};

/* Waits for room. */
struct departure {
    PyObject *data; /* new: exact bytes */
    PyObject *to;   /* new */
};

struct peer {
    union {
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } at;
    PyObject *address; /* new, or NULL */
};

struct datagram {
    struct endpoint base;
    PyObject *address; /* new: what sendto() is bound to, or None */
    int family;
    bool is_connected;

    struct arrival arrivals[DATAGRAMS_AT_ONCE]; /* at[arrived .. arrived + arrivals_n) */
    unsigned arrived, arrivals_n;

    struct departure *departures; /* a ring */
    size_t head, count, cap;

    struct peer *peers; /* PEERS, by a hash; NULL before the first */
};

static inline struct datagram *
datagram_of(struct endpoint *t)
{
    return (struct datagram *)t;
}

/* --- addresses -----------------------------------------------------------------------------------------------------*/

/* As Python's socket module gives them. New. */
static PyObject *
address_new(const union address *a, socklen_t n)
{
    char host[INET6_ADDRSTRLEN];
    if (n == 0)
        Py_RETURN_NONE;
    switch (a->any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &a->in.sin_addr, host, sizeof host);
        return Py_BuildValue("(si)", host, ntohs(a->in.sin_port));
    case AF_INET6:
        inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof host);
        return Py_BuildValue("(siII)", host, ntohs(a->in6.sin6_port), ntohl(a->in6.sin6_flowinfo),
                             a->in6.sin6_scope_id);
    default: { /* a unix socket */
        size_t path_n = n > offsetof(struct sockaddr_un, sun_path)
                            ? n - offsetof(struct sockaddr_un, sun_path)
                            : 0;
        if (path_n > 0 && a->un.sun_path[0] == '\0')
            return PyBytes_FromStringAndSize(a->un.sun_path, (Py_ssize_t)path_n);
        return PyUnicode_DecodeFSDefaultAndSize(a->un.sun_path,
                                                (Py_ssize_t)strnlen(a->un.sun_path, path_n));
    }
    }
}

/* The place where the peer with this address would be remembered, or NULL; *is_it: it is. */
static struct peer *
peer_find(struct datagram *d, const union address *a, socklen_t n, bool *is_it)
{
    if (d->peers == NULL && (d->peers = calloc(PEERS, sizeof *d->peers)) == NULL)
        return NULL;
    if (a->any.sa_family == AF_INET && n >= sizeof a->in) {
        uint32_t hash = (a->in.sin_addr.s_addr ^ (uint32_t)a->in.sin_port << 15) * 0x9e3779b1u;
        struct peer *p = &d->peers[hash >> 26 & (PEERS - 1)];
        *is_it = p->address != NULL && p->at.in.sin_family == AF_INET &&
                 p->at.in.sin_port == a->in.sin_port &&
                 p->at.in.sin_addr.s_addr == a->in.sin_addr.s_addr;
        return p;
    }
    if (a->any.sa_family == AF_INET6 && n >= sizeof a->in6) {
        uint32_t words[4];
        memcpy(words, &a->in6.sin6_addr, sizeof words);
        uint32_t hash =
            (words[0] ^ words[1] ^ words[2] ^ words[3] ^ (uint32_t)a->in6.sin6_port << 15) *
            0x9e3779b1u;
        struct peer *p = &d->peers[hash >> 26 & (PEERS - 1)];
        *is_it = p->address != NULL && memcmp(&p->at.in6, &a->in6, sizeof a->in6) == 0;
        return p;
    }
    return NULL;
}

/* New. */
static PyObject *
address_of(struct datagram *d, const struct arrival *from)
{
    bool is_it = false;
    struct peer *p = peer_find(d, &from->from, from->from_n, &is_it);
    if (is_it)
        return Py_NewRef(p->address);
    PyObject *address = address_new(&from->from, from->from_n);
    if (address == NULL || p == NULL)
        return address;
    PY_OWNED PyObject *old = p->address; /* a tuple of ours: dropping it runs nothing */
    p->address = Py_NewRef(address);
    memcpy(&p->at, &from->from, sizeof p->at);
    return address;
}

/* A numeric host and a port, as nearly all are. The length of what was written to *out; 0: ask the socket object. Runs no Python. */
static socklen_t
address_read(const struct datagram *d, PyObject *address, union address *out)
{
    Py_ssize_t n = PyTuple_CheckExact(address) ? PyTuple_GET_SIZE(address) : 0;
    if (n < 2 || (d->family == AF_INET && n != 2) || (d->family == AF_INET6 && n > 4))
        return 0;
    PyObject *host = PyTuple_GET_ITEM(address, 0);
    if (!PyUnicode_CheckExact(host) || !PyUnicode_IS_COMPACT_ASCII(host))
        return 0;
    long numbers[3] = { 0 }; /* port, flow information, scope */
    for (Py_ssize_t i = 1; i < n; i++) {
        PyObject *number = PyTuple_GET_ITEM(address, i);
        int overflow;
        if (!PyLong_CheckExact(number))
            return 0;
        numbers[i - 1] = PyLong_AsLongAndOverflow(number, &overflow);
        if (overflow != 0 || numbers[i - 1] < 0)
            return 0;
    }
    if (numbers[0] > 0xffff || numbers[1] > 0xfffff || numbers[2] > (long)UINT32_MAX)
        return 0;
    const char *text = (const char *)PyUnicode_1BYTE_DATA(host);
    if (strlen(text) != (size_t)PyUnicode_GET_LENGTH(host))
        return 0;
    if (d->family == AF_INET) {
        out->in =
            (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)numbers[0]) };
        return inet_pton(AF_INET, text, &out->in.sin_addr) == 1 ? sizeof out->in : 0;
    }
    if (d->family != AF_INET6)
        return 0;
    out->in6 = (struct sockaddr_in6){ .sin6_family = AF_INET6,
                                      .sin6_port = htons((uint16_t)numbers[0]),
                                      .sin6_flowinfo = htonl((uint32_t)numbers[1]),
                                      .sin6_scope_id = (uint32_t)numbers[2] };
    return inet_pton(AF_INET6, text, &out->in6.sin6_addr) == 1 ? sizeof out->in6 : 0;
}

/* --- what both directions share ------------------------------------------------------------------------------------*/

static int
datagram_fatal(struct endpoint *t, const char *message)
{
    PyObject *exception;
    bool is_quiet = PyErr_ExceptionMatches(PyExc_OSError);
    if (endpoint_fatal(t, message, is_quiet, &exception) < 0)
        return -1;
    PY_OWNED PyObject *owned = exception;
    return t->is_ended ? 0 : endpoint_end(t, owned);
}

/* protocol.error_received() of the pending OSError. What it raises stays set: -1. */
static int
error_received(struct endpoint *t)
{
    PY_OWNED PyObject *exception = PyErr_GetRaisedException();
    PY_OWNED PyObject *protocol = Py_XNewRef(t->protocol);
    if (protocol == NULL)
        return 0;
    PY_OWNED PyObject *done = transport_call(protocol, t->st->s_error_received, exception);
    return done != NULL ? 0 : -1;
}

/* --- receiving -----------------------------------------------------------------------------------------------------*/

/* Takes what one call gives. Their number, 0 where there is none, or -1 with an exception set: OSError, or MemoryError. Runs no Python. */
static int
receive(struct datagram *d)
{
    struct endpoint *t = &d->base;
    struct mmsghdr messages[DATAGRAMS_AT_ONCE] = { 0 };
    struct iovec parts[DATAGRAMS_AT_ONCE];
    /* Datagrams of a unix socket have no limit of their own; asyncio's is ours. */
    unsigned most = d->family == AF_UNIX ? 1 : DATAGRAMS_AT_ONCE;
    size_t each = d->family == AF_UNIX ? TRANSPORT_SCRATCH : PACKET_MAX;
    char *scratch = transport_scratch_take(t->st);
    if (scratch == NULL)
        return -1;
    for (unsigned i = 0; i < most; i++) {
        parts[i] = (struct iovec){ scratch + i * each, each };
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_hdr.msg_name = &d->arrivals[i].from;
        messages[i].msg_hdr.msg_namelen = sizeof d->arrivals[i].from;
    }
    int n;
    do {
        n = recvmmsg(t->fd, messages, most, MSG_DONTWAIT, NULL);
    } while (n < 0 && errno == EINTR);
    if (n < (int)most && (n >= 0 || errno == EAGAIN))
        t->has_more = false; /* what comes from here on is announced */
    int err = 0;
    if (n < 0 && errno != EAGAIN) {
        if (errno == EBADF ||
            errno == ENOTSOCK) /* closed by somebody else: it would be so for ever */
            t->has_more = false;
        err = endpoint_fail_errno();
    }
    d->arrived = d->arrivals_n = 0;
    for (int i = 0; i < n && err == 0; i++) {
        d->arrivals[i].from_n = messages[i].msg_hdr.msg_namelen;
        d->arrivals[i].data =
            PyBytes_FromStringAndSize(scratch + (size_t)i * each, messages[i].msg_len);
        if (d->arrivals[i].data == NULL)
            err = -1;
        else
            d->arrivals_n++;
    }
    transport_scratch_give(t->st, scratch);
    return err < 0 ? -1 : (int)d->arrivals_n;
}

static void
drop_arrivals(struct datagram *d)
{
    while (d->arrivals_n > 0) {
        struct arrival *a = &d->arrivals[d->arrived++];
        d->arrivals_n--;
        Py_CLEAR(a->data); /* exact bytes: dropping them runs nothing */
    }
}

static int
deliver(struct datagram *d)
{
    struct endpoint *t = &d->base;
    struct arrival *a = &d->arrivals[d->arrived++];
    d->arrivals_n--;
    PY_OWNED PyObject *data = py_take(&a->data);
    PY_OWNED PyObject *from = address_of(d, a);
    if (from == NULL)
        return -1;
    PY_OWNED PyObject *protocol = Py_NewRef(t->protocol);
    PyObject *args[] = { protocol, data, from };
    PY_OWNED PyObject *done = PyObject_VectorcallMethod(t->st->s_datagram_received, args,
                                                        3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    return done != NULL ? 0 : -1;
}

static int
read_ready(struct datagram *d)
{
    struct endpoint *t = &d->base;
    int err = 0;
    t->has_more = true;
    for (unsigned left = DATAGRAMS_A_TURN; left > 0 && err == 0 && endpoint_reads(t); left--) {
        if (d->arrivals_n == 0) {
            int n = t->has_more ? receive(d) : 0;
            if (n < 0 && PyErr_ExceptionMatches(PyExc_OSError)) {
                err = error_received(t);
                continue;
            }
            if (n < 0)
                err = datagram_fatal(t, "Fatal read error on datagram transport");
            if (n <= 0)
                break;
        }
        err = deliver(d);
    }
    if (t->is_closing || t->is_ended)
        drop_arrivals(d);
    t->has_more |= d->arrivals_n > 0;
    if (t->has_more && endpoint_reads(t))
        endpoint_again(t, ENDPOINT_IN); /* the others' turn first */
    return err;
}

/* --- sending -------------------------------------------------------------------------------------------------------*/

static void
drop_departures(struct datagram *d)
{
    while (d->count > 0) {
        struct departure one = d->departures[d->head];
        d->head = (d->head + 1) & (d->cap - 1);
        d->count--;
        Py_DECREF(one.data);
        Py_DECREF(one.to);
    }
    d->base.queued = 0;
}

/* By the socket object: names, odd types, and the errors for these. As send_one(). */
static int
send_by_object(struct datagram *d, PyObject *data, PyObject *to)
{
    struct endpoint *t = &d->base;
    if (t->file == NULL) {
        PyErr_SetString(PyExc_OSError, "the transport is closed");
        return -1;
    }
    PY_OWNED PyObject *file = Py_NewRef(t->file);
    PyObject *args[] = { file, data, to };
    PY_OWNED PyObject *done =
        PyObject_VectorcallMethod(t->st->s_sendto, args, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (done != NULL)
        return 1;
    if (!PyErr_ExceptionMatches(PyExc_BlockingIOError) &&
        !PyErr_ExceptionMatches(PyExc_InterruptedError))
        return -1;
    PyErr_Clear();
    return 0;
}

/* 1: it has gone, 0: there is no room, -1 with an exception set. view: of data. May run Python. */
static int
send_one(struct datagram *d, PyObject *data, const void *p, size_t n, PyObject *to)
{
    union address address;
    socklen_t address_n = 0;
    if (!d->is_connected) {
        address_n = address_read(d, to, &address);
        if (address_n == 0)
            return send_by_object(d, data, to);
        if (PySys_Audit("socket.sendto", "OO", d->base.file, to) < 0)
            return -1;
    }
    for (;;) {
        ssize_t sent = sendto(d->base.fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT,
                              address_n > 0 ? &address.any : NULL, address_n);
        if (LIKELY(sent >= 0))
            return 1;
        if (errno == EAGAIN)
            return 0;
        if (errno != EINTR)
            return endpoint_fail_errno();
        if (PyErr_CheckSignals() < 0)
            return -1;
    }
}

/* Of the pending exception: error_received(), or the end. 0, or -1 with what is the caller's. */
static int
send_failed(struct endpoint *t)
{
    if (PyErr_ExceptionMatches(PyExc_OSError))
        return error_received(t);
    return datagram_fatal(t, "Fatal write error on datagram transport");
}

/* data: exact bytes. -1 with MemoryError set. */
static int
queue(struct datagram *d, PyObject *data, PyObject *to)
{
    if (d->count == d->cap) {
        size_t cap = d->cap > 0 ? 2 * d->cap : 16;
        struct departure *ring = PyMem_New(struct departure, cap);
        if (ring == NULL)
            return PyErr_NoMemory(), -1;
        for (size_t i = 0; i < d->count; i++)
            ring[i] = d->departures[(d->head + i) & (d->cap - 1)];
        PyMem_Free(d->departures);
        d->departures = ring;
        d->head = 0;
        d->cap = cap;
    }
    d->departures[(d->head + d->count++) & (d->cap - 1)] =
        (struct departure){ Py_NewRef(data), Py_NewRef(to) };
    d->base.queued += (size_t)PyBytes_GET_SIZE(data) + HEADER;
    return 0;
}

static int
write_ready(struct datagram *d)
{
    struct endpoint *t = &d->base;
    int err = 0, sent = 1;
    while (err == 0 && d->count > 0 && sent == 1) {
        struct departure one = d->departures[d->head];
        PY_OWNED PyObject *data = Py_NewRef(one.data);
        PY_OWNED PyObject *to = Py_NewRef(one.to);
        sent = send_one(d, data, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data), to);
        if (sent == 0)
            break;                                                  /* no room */
        if (d->count == 0 || d->departures[d->head].data != data) { /* dropped by what has run */
            err = sent < 0 ? send_failed(t) : 0;
            break;
        }
        d->head = (d->head + 1) & (d->cap - 1);
        d->count--;
        t->queued -= (size_t)PyBytes_GET_SIZE(data) + HEADER;
        Py_DECREF(one.data);
        Py_DECREF(one.to);
        if (sent < 0)
            err = send_failed(t);
    }
    if (t->is_ended)
        return err;
    if (sent < 0 && d->count > 0)
        endpoint_again(t, ENDPOINT_ROOM); /* the rest in the next turn */
    t->wants_room = d->count > 0 && sent >= 0;
    if (err == 0)
        err = endpoint_maybe_resume(t); /* may queue more */
    if (d->count == 0 && t->is_closing && !t->is_ended) {
        PyObject *raised = PyErr_GetRaisedException();
        int lost = endpoint_lose(t, Py_None);
        if (raised != NULL) {
            PyErr_Clear();
            PyErr_SetRaisedException(raised);
        }
        err = lost < 0 || err < 0 ? -1 : 0;
    }
    return err;
}

/* 0, or -1 with an exception set. */
static int
datagram_send(struct datagram *d, PyObject *data, const Py_buffer *view, PyObject *to)
{
    struct endpoint *t = &d->base;
    if (d->count == 0) {
        int sent = send_one(d, data, view->buf, (size_t)view->len, to);
        if (LIKELY(sent > 0))
            return 0;
        if (sent < 0)
            return send_failed(t);
        t->wants_room = true;
        endpoint_changed(t);
    }
    PY_OWNED PyObject *copy = PyBytes_CheckExact(data)
                                  ? Py_NewRef(data)
                                  : PyBytes_FromStringAndSize(view->buf, view->len);
    if (copy == NULL || queue(d, copy, to) < 0)
        return -1;
    return endpoint_maybe_pause(t);
}

static PyObject *
sendto_args(PyObject *const *args, Py_ssize_t n, PyObject *kwnames, PyObject **to)
{
    PyObject *data = n > 0 ? args[0] : NULL;
    Py_ssize_t named = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    *to = n > 1 ? args[1] : Py_None;
    if (n > 2) {
        PyErr_Format(PyExc_TypeError, "sendto() takes data and addr, not %zd arguments", n);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (n < 2 && PyUnicode_CompareWithASCIIString(name, "addr") == 0) {
            *to = args[n + i];
        } else if (n < 1 && PyUnicode_CompareWithASCIIString(name, "data") == 0) {
            data = args[n + i];
        } else {
            PyErr_Format(PyExc_TypeError, "sendto() got an unexpected argument %R", name);
            return NULL;
        }
    }
    if (data == NULL)
        PyErr_SetString(PyExc_TypeError, "sendto() missing a required argument: 'data'");
    return data;
}

static PyObject *
meth_sendto(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    struct endpoint *t = endpoint_of(self);
    struct datagram *d = datagram_of(t);
    PyObject *to;
    PyObject *data = sendto_args(args, n, kwnames, &to);
    if (data == NULL)
        return NULL;
    if (!PyBytes_Check(data) && !PyByteArray_Check(data) && !PyMemoryView_Check(data)) {
        PY_OWNED PyObject *name = PyType_GetName(Py_TYPE(data));
        if (name != NULL)
            PyErr_Format(PyExc_TypeError, "data argument must be a bytes-like object, not %R",
                         name);
        return NULL;
    }
    if (HEADER == 0) {
        Py_ssize_t length = PyObject_Size(data);
        if (length <= 0)
            return length < 0 ? NULL : Py_NewRef(Py_None);
    }
    int is_bound = d->address != NULL ? PyObject_IsTrue(d->address) : 0;
    if (is_bound > 0) {
        int is_right = to == Py_None ? 1 : PyObject_RichCompareBool(to, d->address, Py_EQ);
        if (is_right == 0)
            PyErr_Format(PyExc_ValueError, "Invalid address: must be None or %S", d->address);
        if (is_right <= 0)
            return NULL;
        to = d->address;
    }
    if (is_bound < 0)
        return NULL;
    if (UNLIKELY(t->is_closed || (t->conn_lost > 0 && is_bound))) {
        if (t->conn_lost++ >= LOST_WRITES_QUIET) {
            PY_OWNED PyObject *done = PyObject_CallMethod(t->st->logger, "warning", "s",
                                                          "socket.send() raised exception.");
            if (done == NULL)
                return NULL;
        }
        Py_RETURN_NONE;
    }
    PY_OWNED PyObject *kept = Py_NewRef(to);
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return send_failed(t) < 0 ? NULL : Py_NewRef(Py_None);
    int err = datagram_send(d, data, &view, kept);
    PyBuffer_Release(&view);
    if (err < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- its life ------------------------------------------------------------------------------------------------------*/

static int
datagram_ready(struct endpoint *t, unsigned events)
{
    struct datagram *d = datagram_of(t);
    int err = 0;
    if (events & ENDPOINT_ROOM)
        err = write_ready(d);
    if (!(events & ENDPOINT_IN) || t->is_ended || t->is_closing)
        return err;
    if (err == 0)
        return read_ready(d);
    endpoint_again(t, ENDPOINT_IN);
    return err;
}

static void
datagram_drop(struct endpoint *t)
{
    drop_departures(datagram_of(t));
    drop_arrivals(datagram_of(t));
}

static const struct endpoint_kind datagram_kind = {
    .ready = datagram_ready,
    .drop = datagram_drop,
    .writes = true,
};

static PyObject *
meth_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    struct datagram *d = datagram_of(t);
    if (t->is_closing)
        Py_RETURN_NONE;
    if (d->count == 0) {
        if (endpoint_end(t, Py_None) < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    t->is_closing = true; /* what waits is sent first */
    t->wants_watch = false;
    endpoint_changed(t);
    drop_arrivals(d);
    Py_RETURN_NONE;
}

static PyObject *
meth_abort(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct endpoint *t = endpoint_of(self);
    if (!t->is_ended && endpoint_end(t, Py_None) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
datagram_repr(PyObject *self)
{
    struct endpoint *t = endpoint_of(self);
    char polls[96] = "";
    if (t->file != NULL)
        snprintf(polls, sizeof polls, " read=%s write=<%s, bufsize=%zu>",
                 t->wants_watch && !t->is_paused ? "polling" : "idle",
                 t->wants_room ? "polling" : "idle", t->queued);
    return PyUnicode_FromFormat("<DatagramTransport%s fd=%d%s>", endpoint_state(t), t->fd, polls);
}

static int
datagram_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct datagram *d = datagram_of(endpoint_of(self));
    Py_VISIT(d->address);
    for (size_t i = 0; i < d->count; i++)
        Py_VISIT(d->departures[(d->head + i) & (d->cap - 1)].to);
    return endpoint_traverse(&d->base, visit, arg);
}

static int
datagram_clear(PyObject *self)
{
    struct datagram *d = datagram_of(endpoint_of(self));
    datagram_drop(&d->base);
    Py_CLEAR(d->address);
    endpoint_clear(&d->base);
    return 0;
}

static void
datagram_dealloc(PyObject *self)
{
    struct datagram *d = datagram_of(endpoint_of(self));
    if (!endpoint_dealloc_begin(self))
        return;
    Py_CLEAR(d->address);
    PyMem_Free(d->departures);
    for (unsigned i = 0; d->peers != NULL && i < PEERS; i++)
        Py_XDECREF(d->peers[i].address);
    free(d->peers);
    endpoint_dealloc_end(self);
}

/* extra[name] = value: new, or NULL with an exception set, of which OSError means None. */
static int
set_info(struct endpoint *t, PyObject *name, PyObject *value)
{
    if (value == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();
        value = Py_NewRef(Py_None);
    }
    PY_OWNED PyObject *owned = value;
    return value != NULL ? PyObject_SetItem(t->extra, name, value) : -1;
}

static int
fill(struct datagram *d, PyObject *sock)
{
    struct endpoint *t = &d->base;
    struct transport_state *st = t->st;
    if (set_info(t, st->s_socket, PyObject_CallOneArg(st->transport_socket, sock)) < 0 ||
        set_info(t, st->s_sockname, transport_call0(sock, st->s_getsockname)) < 0)
        return -1;
    PY_OWNED PyObject *peername = PyObject_GetItem(t->extra, st->s_peername);
    if (peername == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_KeyError))
            return -1;
        PyErr_Clear();
        if (set_info(t, st->s_peername, transport_call0(sock, st->s_getpeername)) < 0)
            return -1;
        peername = PyObject_GetItem(t->extra, st->s_peername);
    }
    int is_connected = peername != NULL ? PyObject_IsTrue(peername) : -1;
    if (is_connected < 0)
        return -1;
    d->is_connected = is_connected || d->family == AF_UNIX; /* its peer may have no name */
    PY_OWNED PyObject *transports = PyObject_GetAttr(t->loop, st->s__transports);
    PY_OWNED PyObject *number = PyLong_FromLong(t->fd);
    if (transports == NULL || number == NULL)
        return -1;
    return PyObject_SetItem(transports, number, (PyObject *)t);
}

/* Is it a socket that this is made for? */
static bool
is_ours(int fd, int *family)
{
    int type = 0;
    union address address;
    socklen_t n = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0 || type != SOCK_DGRAM)
        return false;
    n = sizeof *family;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, family, &n) < 0)
        return false;
    n = sizeof address;
    return *family == AF_INET || *family == AF_INET6 ||
           (*family == AF_UNIX && getpeername(fd, &address.any, &n) == 0);
}

PyObject *
datagram_make(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
    if (n != 6) {
        PyErr_SetString(PyExc_TypeError,
                        "_datagram_transport(loop, sock, protocol, address, waiter, extra)");
        return NULL;
    }
    PY_OWNED PyObject *st_owner = NULL;
    struct transport_state *st = transport_state_take(module, &st_owner);
    PY_OWNED PyObject *number = st != NULL ? transport_call0(args[1], st->s_fileno) : NULL;
    int family, fd = number != NULL ? (int)PyLong_AsLong(number) : -1;
    if (number == NULL || (fd == -1 && PyErr_Occurred()))
        return NULL;
    if (!is_ours(fd, &family))
        Py_RETURN_NONE;
    PY_OWNED PyObject *self = (PyObject *)endpoint_new(module, st->datagram_type, &datagram_kind,
                                                       args[0], args[1], args[2], args[5]);
    if (self == NULL)
        return NULL;
    struct datagram *d = datagram_of(endpoint_of(self));
    d->address = Py_NewRef(args[3]);
    d->family = family;
    if (fill(d, args[1]) == 0 && endpoint_start(&d->base, args[4]) == 0)
        return py_take(&self);
    endpoint_undo(&d->base);
    return NULL;
}

static PyMethodDef datagram_methods[] = {
    ENDPOINT_METHODS,
    ENDPOINT_READ_METHODS,
    ENDPOINT_WRITE_METHODS,
    { "sendto", (PyCFunction)(void (*)(void))meth_sendto, METH_FASTCALL | METH_KEYWORDS,
      "sendto(data, addr=None)" },
    { "close", meth_close, METH_NOARGS, "Closes it once what waits was sent." },
    { "abort", meth_abort, METH_NOARGS, "Closes it at once; what waits is lost." },
    { NULL, NULL, 0, NULL },
};

static PyMemberDef datagram_members[] = {
    ENDPOINT_MEMBERS,
    { "_sock_fd", T_INT, offsetof(struct endpoint, fd), Py_READONLY, NULL },
    { "_address", T_OBJECT, offsetof(struct datagram, address), Py_READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyGetSetDef datagram_getset[] = {
    { "_sock", endpoint_get_file, endpoint_set_file, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot datagram_slots[] = {
    { Py_tp_doc, (void *)"The transport of a datagram socket." },
    { Py_tp_traverse, datagram_traverse },
    { Py_tp_clear, datagram_clear },
    { Py_tp_finalize, endpoint_finalize },
    { Py_tp_dealloc, datagram_dealloc },
    { Py_tp_repr, datagram_repr },
    { Py_tp_methods, datagram_methods },
    { Py_tp_members, datagram_members },
    { Py_tp_getset, datagram_getset },
    { 0, NULL },
};

PyType_Spec datagram_spec = {
    .name = "_ringcorn.DatagramTransport",
    .basicsize = sizeof(struct datagram),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = datagram_slots,
};

/* stream.h: the transport of a connected stream socket: what stream*.c share with each other and with nobody else.
 *
 * Reading. The socket is watched (io_watch(): one completion an arrival). run() receives once a turn, into a buffer that all share, and gives
 * the protocol one bytes object of the right size; where the latest reads were long, straight into that object (or into the buffer of asyncio's own
 * StreamReader), with room for as much and a little more; what is left is for the next turn. pause_reading() leaves the watch alone: only when
 * something arrives in a pause is it cancelled, to be armed again by resume_reading().
 *
 * Writing. What is written while the loop runs goes out at the end of phase 3 (struct loop_source, flush), in one
 * call where it was several. This is not to be seen: whoever asks how much waits, closes, or writes more than the high-water mark, has it sent
 * at that moment. What finds no room stays queued: exact bytes by reference, the rest as copies. io_room() says when to
 * go on. Nothing is ever given to the kernel to keep.
 *
 *     open ──close()──> closing ──queue empty──> lost ──connection_lost() has run──> closed
 *       └────────────error, abort()───────────────┘
 */
#ifndef RINGCORN_TRANSPORT_STREAM_H
#define RINGCORN_TRANSPORT_STREAM_H

#include "transport/state.h"

enum stream_event {
    STREAM_READ = 1, /* there may be something to receive */
    STREAM_ROOM = 2, /* there may be room to send */
    STREAM_SENT = 4, /* flush() has sent, or failed: what follows from it is Python's */
};

/* Bytes that wait to be sent. */
struct stream_chunk {
    PyObject *owner; /* new: exact bytes */
    const char *p;
    size_t n;
};

enum { STREAM_CHUNKS_INLINE = 4 };

struct stream {
    PyObject_HEAD
    PyObject *extra; /* new: asyncio.BaseTransport's slot _extra */
    PyObject *unused_slots[TRANSPORT_SLOTS - 1];
    PyObject *dict, *weakrefs;

    struct loop_source source;
    struct io_op watch, room; /* the loop's thread */
    unsigned events;          /* the loop's thread: enum stream_event */
    unsigned unsure_n; /* the loop's thread: completions with IO_UNSURE since the last read */
    /* the loop's thread: the peer has ended, or the socket has failed: receive until it says so */
    bool may_end;

    struct transport_state *st;
    PyObject *st_owner;
    PyObject *loop; /* new; stays until the end, unlike asyncio's _loop */
    PyObject *sock, *protocol, *server, *empty_waiter; /* new, or NULL */
    unsigned read_size;   /* of the next read, where it is likely to be a long one; else 0 */
    unsigned shorter_n;   /* reads in a row that needed less */
    unsigned shorter_max; /* the most that these needed */
    int fd;
    int conn_lost; /* connection_lost() is called or will be; asyncio's count of writes after it */

    struct stream_chunk *chunks; /* at[head..head + count) */
    struct stream_chunk inline_chunks[STREAM_CHUNKS_INLINE];
    size_t head, count, cap;
    size_t queued; /* bytes in them */
    size_t high, low;
    int send_errno; /* flush() has failed */

    bool is_started; /* reading: connection_made() was called */
    bool is_paused;
    bool has_unread;   /* something has arrived in a pause */
    bool is_read_done; /* the peer's end, and the protocol keeps the connection open */
    bool is_lent;      /* sendfile() has the socket */
    bool is_blocked;   /* no room: io_room() tells */
    bool is_closing;
    bool is_closed;
    bool is_eof, is_shut; /* write_eof() was called; the socket was shut down */
    bool is_protocol_paused;
    bool is_protocol_connected;
    bool is_buffered; /* a BufferedProtocol */
    bool is_tls;      /* tls_check() */
    bool is_reader;   /* asyncio's own StreamReaderProtocol */
    bool is_tcp;      /* a short read is the last */
    bool has_urgent;  /* the loop's thread: of TCP, at which reads stop: they no longer are */
};

static inline struct stream *
stream_of(PyObject *object)
{
    return (struct stream *)object;
}

/* --- stream.c --- */

/* What is wanted of the io has changed. */
void stream_changed(struct stream *t);
/* As asyncio's _fatal_error() for the pending exception: SystemExit and KeyboardInterrupt stay set and give -1. May run Python. */
int stream_fatal(struct stream *t, const char *message);
/* exception: borrowed, or Py_None. 0 or -1. May run Python. */
int stream_force_close(struct stream *t, PyObject *exception);
int stream_close(struct stream *t);
/* Calls protocol.connection_lost() and lets go of everything. -1 with what that has raised. May run Python. */
int stream_lose(struct stream *t, PyObject *exception);
/* loop.call_exception_handler({message, exception, transport, protocol}) for the pending exception, which is taken. 0 or -1. May run Python. */
int stream_tell(struct stream *t, const char *message);
/* logger.debug(format, self) where the loop is in debug mode. 0 or -1. May run Python. */
int stream_debug(struct stream *t, const char *format);

/* --- stream_read.c --- */

int stream_read_ready(struct stream *t);

/* --- stream_feed.c --- */

/* The StreamReader whose buffer the bytes are for, where asyncio's own way is the one to take; *buffer: its bytearray. New both; or NULL without
 * an exception. May run Python. */
PyObject *stream_reader(struct stream *t, PyObject **buffer);
/* The buffer has grown. 0, or -1 with an exception set. May run Python. */
int stream_fed(struct stream *t, PyObject *reader, PyObject *buffer);

/* --- stream_write.c --- */

PyObject *stream_meth_write(PyObject *self, PyObject *data);
PyObject *stream_meth_writelines(PyObject *self, PyObject *list);
PyObject *stream_meth_write_eof(PyObject *self, PyObject *unused);
PyObject *stream_meth_set_limits(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *stream_meth_make_empty_waiter(PyObject *self, PyObject *unused);
PyObject *stream_meth_reset_empty_waiter(PyObject *self, PyObject *unused);
int stream_write_ready(struct stream *t);
void stream_flush(struct loop_source *source);
/* Tries what has not been tried yet. 0, or -1: the connection is lost (and what that has raised is set). May run Python. */
int stream_send_now(struct stream *t);
void stream_drop_queue(struct stream *t);

#endif

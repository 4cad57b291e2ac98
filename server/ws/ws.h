/* ws.h: WebSockets (RFC 6455) and permessage-deflate (RFC 7692) as bytes in and bytes out.
 *
 *   handshake.c   what an opening request asks for, and the key of its answer (sha1.c)
 *   read.c        frames in, messages out; wslay parses the frames
 *   write.c       heads of frames and what a Close carries, out
 *   deflate.c     what was agreed about compression, the compressors themselves
 *   utf8.c        is this text UTF-8, told while it arrives
 *
 * Knows no sockets, no timers, no HTTP and no Python: http/h1_ws.c brings the bytes. All on the loop
 * thread, with or without the GIL.
 *
 * An idle WebSocket owns nothing but its struct ws: the parser (wslay keeps 4 KiB of input) is lent
 * from struct ws_shared while part of a frame is here, a compressor is made for the first message
 * that needs it and dropped by ws_rest(). */
#ifndef RINGCORN_WS_H
#define RINGCORN_WS_H

#include "base/base.h"

enum {
    WS_CONTROL_MAX = 125, /* bytes of a control frame (RFC 6455 section 5.5) */
    WS_REASON_MAX = 123,  /* of a Close's reason */
    WS_HEAD_MAX = 10,     /* bytes of an unmasked frame's head */
    WS_ACCEPT_LEN = 28,   /* characters of Sec-WebSocket-Accept */
    WS_ANSWER_MAX = 160,  /* characters of our Sec-WebSocket-Extensions */
    WS_FRAMES_KEPT = 64,  /* parsers kept for reuse, some 4.3 KiB each */
};

/* RFC 6455 section 7.4.1 and the IANA registry. */
enum ws_code {
    WS_NORMAL = 1000,
    WS_GOING_AWAY = 1001,
    WS_PROTOCOL_ERROR = 1002,
    WS_NO_CODE = 1005,  /* a Close without one; never sent */
    WS_ABNORMAL = 1006, /* no Close at all; never sent */
    WS_BAD_DATA = 1007,
    WS_TOO_BIG = 1009,
    WS_INTERNAL_ERROR = 1011,
};

/* May an endpoint send this code? */
bool ws_code_is_valid(unsigned code);

/* --- permessage-deflate: what is wanted, and what was agreed (deflate.c) ------------------------ */

struct ws_deflate_conf {
    bool is_on;
    uint8_t window_bits; /* 9 to 15, for both directions */
    uint8_t mem_level;   /* 1 to 9 */
    uint8_t level;       /* 1 to 9 */
    bool no_takeover;    /* every message on its own: less memory, less compression */
    size_t size_min;     /* smaller messages go as they are */
    size_t memory_max;   /* of all compressors of a loop */
};

struct ws_agreed {
    bool is_on;
    uint8_t server_bits, client_bits; /* window bits of what we send, and of what comes */
    bool server_no_takeover, client_no_takeover;
    bool client_bits_are_told; /* the client offered to be told */
    bool server_bits_are_told;
};

/* Takes the first offer of a Sec-WebSocket-Extensions field that can be accepted, if none was taken
 * yet. Fields that are nonsense agree on nothing. */
void ws_agree(struct ws_agreed *agreed, const struct ws_deflate_conf *conf, struct slice field);

/* The answer's Sec-WebSocket-Extensions for what is on. Returns its length. */
size_t ws_agreed_text(const struct ws_agreed *agreed, char out[WS_ANSWER_MAX]);

/* --- the opening handshake (handshake.c) -------------------------------------------------------- */

struct ws_handshake {
    unsigned keys, versions; /* how often the field was there */
    bool is_key_valid, is_version_13;
    char accept[WS_ACCEPT_LEN]; /* the answer's Sec-WebSocket-Accept */
    struct ws_agreed agreed;
};

/* To be called with each header of the request; name in lower case. The struct begins zeroed. */
void ws_handshake_header(struct ws_handshake *hs, const struct ws_deflate_conf *conf,
                         struct slice name, struct slice value);

/* 0, or the status to refuse with: 426 (with Sec-WebSocket-Version: 13) or 400. */
int ws_handshake_end(const struct ws_handshake *hs);

/* sha1.c: for the handshake alone. */
void sha1(const void *data, size_t n, uint8_t digest[20]);

/* --- UTF-8 (utf8.c) ----------------------------------------------------------------------------- */

/* {0} at the beginning of a text. */
struct ws_utf8 {
    uint8_t need;      /* bytes of the current character to come */
    uint8_t low, high; /* bounds of the next of them */
};

/* False as soon as no continuation can make it UTF-8. */
bool ws_utf8_feed(struct ws_utf8 *u, const char *p, size_t n);

static inline bool
ws_utf8_is_whole(const struct ws_utf8 *u)
{
    return u->need == 0;
}

/* --- one WebSocket ------------------------------------------------------------------------------ */

struct ws_frame; /* read.c */

/* What the WebSockets of a loop share. Embedded in http/'s own; fields are ws/'s. */
struct ws_shared {
    uint64_t size_max; /* bytes of a message, inflated */
    struct ws_deflate_conf deflate;
    struct ws_frame *free_frames;
    unsigned free_frames_n;
    size_t compressors_bytes; /* of all compressors there are */
    void *heads;   /* wslay's context that writes heads: between two of them it is empty */
    char *head_to; /* where the next one goes */
    size_t head_n;
    struct buf squeezed; /* the message compressed last */
};

/* size_max and deflate are the caller's to set. 0 or -ENOMEM. */
int ws_shared_init(struct ws_shared *shared);
void ws_shared_fini(struct ws_shared *shared); /* every ws is gone */

struct ws_message {
    struct ws_message *next; /* the holder's */
    size_t n, cap;
    bool is_text; /* then it is valid UTF-8 */
    char data[];
};

struct ws {
    struct ws_shared *shared;
    struct ws_frame *frame;               /* NULL at the border of two frames */
    struct ws_message *message;           /* what came of it so far, or whole: ws_take() */
    struct z_stream_s *inflate, *deflate; /* NULL until needed */
    struct ws_agreed agreed;
    struct ws_utf8 utf8;
    bool in_message;  /* its last frame is still to come */
    bool is_deflated; /* the message in hand */
    bool is_over;     /* WS_CLOSED or WS_FAILED was told */
    uint8_t control_n;
    uint16_t code; /* of WS_CLOSED or WS_FAILED */
};

void ws_init(struct ws *ws, struct ws_shared *shared, const struct ws_agreed *agreed);
void ws_fini(struct ws *ws); /* twice does no harm */

enum ws_event {
    WS_NOTHING, /* all input was used */
    WS_MESSAGE, /* ws_take() has it */
    WS_PING,    /* ws_control() is what the Pong must carry */
    WS_PONG,
    WS_CLOSED, /* a Close: ws->code (WS_NO_CODE where it had none), ws_control() is the reason */
    WS_FAILED, /* the peer broke the protocol or a limit: ws->code is what to close with */
};

/* Reads on: uses up some of *input, and tells what it came to. To be called until WS_NOTHING; who
 * stops before that keeps the rest of *input. After WS_CLOSED and WS_FAILED nothing more is told. */
enum ws_event ws_read(struct ws *ws, struct slice *input);

/* After WS_MESSAGE, once: the caller's to free(). */
struct ws_message *ws_take(struct ws *ws);

/* Payload of the last control frame (of a Close: its reason); valid until the next ws_read(). */
struct slice ws_control(const struct ws *ws);

/* Payload bytes of the frame in hand that have not come yet: a hint for how much to read at once. */
uint64_t ws_missing(const struct ws *ws);

/* Nothing was said for a while: gives back what can be made anew. The side that sends may always
 * forget its window, the side that receives only where the client agreed not to refer to it. */
void ws_rest(struct ws *ws);

/* --- out ----------------------------------------------------------------------------------------- */

enum ws_kind { WS_TEXT = 1, WS_BINARY = 2, WS_KIND_CLOSE = 8, WS_KIND_PING = 9, WS_KIND_PONG = 10 };

/* The head of one unfragmented frame with n bytes of payload. Returns its length. */
size_t ws_head(struct ws_shared *shared, char out[WS_HEAD_MAX], enum ws_kind kind, bool is_deflated,
               uint64_t n);

/* A Close's payload; code WS_NO_CODE = none. Reasons are cut at a character. Returns its length. */
size_t ws_close_payload(char out[WS_CONTROL_MAX], unsigned code, struct slice reason);

/* Compresses a whole message; *out is valid until the next call for any WebSocket. False: it is to
 * be sent as it is (nothing agreed, too small, no memory left for compressors). */
bool ws_squeeze(struct ws *ws, const char *p, size_t n, struct slice *out);

/* --- private to ws/: deflate.c ------------------------------------------------------------------ */

/* Inflates a piece of the message in hand behind ws->message; is_last ends it. 0 or the code to
 * fail with. */
unsigned ws_inflate(struct ws *ws, const char *p, size_t n, bool is_last);
void ws_compressors_fini(struct ws *ws);

/* read.c: room for more bytes behind ws->message->n: 0, or the code to fail with (never more than
 * size_max bytes in all). */
unsigned ws_message_room(struct ws *ws, size_t more);
/* so many bytes behind n are there now; checks text. 0 or the code to fail with */
unsigned ws_message_add(struct ws *ws, size_t n);

#endif

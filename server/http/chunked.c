/* chunked.c: a byte machine for the framing, memmove() for the data. Where the input is cut does
 * not matter. */
#include "chunked.h"

#include <string.h>

#include "chars.h"

enum state {
    SIZE,       /* hexadecimal digits */
    SIZE_SPACE, /* "bad" white space, which RFC 9112 section 7.1.1 has us take before ';' */
    EXT,        /* behind ';' to the end of the line */
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    LINE, /* the start of a trailer line, or of the line that ends all */
    NAME,
    VALUE,
    VALUE_LF,
    END_LF,
    DONE,
};

static int
hex_value(char c)
{
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* One byte of framing. Returns 0 or a negative status. */
static int
step(struct chunked *ck, const struct chunked_limits *limits, char c)
{
    switch ((enum state)ck->state) {
    case SIZE:
        if (char_is(c, CHAR_HEX)) {
            if (++ck->digits > 15) /* 60 bits: no sum of sizes overflows */
                return -400;
            ck->left = ck->left << 4 | (uint64_t)hex_value(c);
            return 0;
        }
        if (ck->digits == 0)
            return -400;
        /* fall through */
    case SIZE_SPACE:
        if (c == ';')
            ck->state = EXT;
        else if (c == '\r' && ck->state == SIZE)
            ck->state = SIZE_LF;
        else if (c == ' ' || c == '\t')
            ck->state = SIZE_SPACE;
        else
            return -400;
        return ++ck->line > CHUNKED_LINE_MAX ? -400 : 0;
    case EXT:
        if (c == '\r')
            ck->state = SIZE_LF;
        else if (!char_is(c, CHAR_VALUE))
            return -400;
        return ++ck->line > CHUNKED_LINE_MAX || ++ck->ext > CHUNKED_EXT_MAX ? -400 : 0;
    case SIZE_LF:
        if (c != '\n')
            return -400;
        ck->state = ck->left > 0 ? DATA : LINE;
        return 0;
    case DATA_CR:
        if (c != '\r')
            return -400;
        ck->state = DATA_LF;
        return 0;
    case DATA_LF:
        if (c != '\n')
            return -400;
        ck->state = SIZE;
        ck->digits = 0;
        ck->line = 0;
        return 0;
    case LINE:
        if (c == '\r')
            ck->state = END_LF;
        else if (!char_is(c, CHAR_TOKEN)) /* a folded line too */
            return -400;
        else {
            if (++ck->trailers > limits->trailers)
                return -431;
            ck->state = NAME;
        }
        break;
    case NAME:
        if (c == ':')
            ck->state = VALUE;
        else if (!char_is(c, CHAR_TOKEN))
            return -400;
        break;
    case VALUE:
        if (c == '\r')
            ck->state = VALUE_LF;
        else if (!char_is(c, CHAR_VALUE))
            return -400;
        break;
    case VALUE_LF:
        if (c != '\n')
            return -400;
        ck->state = LINE;
        break;
    case END_LF:
        if (c != '\n')
            return -400;
        ck->state = DONE;
        break;
    case DATA:
    case DONE:
        return -400;
    }
    if (++ck->trailer_bytes > limits->trailer_bytes)
        return -431;
    bool is_field = ck->state != END_LF && ck->state != DONE;
    return limits->keep != NULL && is_field && buf_append(limits->keep, &c, 1) < 0 ? -431 : 0;
}

int
chunked_decode(struct chunked *ck, const struct chunked_limits *limits, char *data, uint32_t *raw,
               uint32_t raw_end, uint32_t *body_end)
{
    while (*raw < raw_end) {
        if (ck->state == DATA) {
            uint32_t n = raw_end - *raw;
            if (n > ck->left)
                n = (uint32_t)ck->left;
            if (*body_end != *raw)
                memmove(data + *body_end, data + *raw, n);
            *body_end += n;
            *raw += n;
            ck->left -= n;
            if (ck->left == 0)
                ck->state = DATA_CR;
            continue;
        }
        int err = step(ck, limits, data[*raw]);
        if (err < 0)
            return err;
        ++*raw;
        if (ck->state == DONE)
            return CHUNKED_DONE;
    }
    return CHUNKED_MORE;
}

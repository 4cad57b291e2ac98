/* block.c: input blocks and output chunks, kept on free lists so that a request in steady state
 * allocates nothing. Last in, first out: what was used last is still in the cache. Owns: the free
 * lists of struct net. Always:   at most NET_*_KEPT of each are kept; odd sizes go back to malloc
 * at once. */
#include <stdlib.h>

#include "net.h"
#include "out.h"

struct block *
block_take(struct net *net, uint32_t cap)
{
    struct block *b;
    if (cap <= NET_BLOCK && net->free_blocks != NULL) {
        b = net->free_blocks;
        net->free_blocks = b->next;
        net->free_blocks_n--;
    } else if (cap > NET_BLOCK && cap <= NET_BIG_BLOCK && net->free_big_blocks != NULL) {
        b = net->free_big_blocks;
        net->free_big_blocks = b->next;
        net->free_big_blocks_n--;
    } else {
        if (cap < NET_BLOCK)
            cap = NET_BLOCK;
        else if (cap > NET_BLOCK && cap < NET_BIG_BLOCK)
            cap = NET_BIG_BLOCK;
        b = malloc(sizeof(*b) + cap);
        if (b == NULL)
            return NULL;
        b->cap = cap;
    }
    b->next = NULL;
    live.read_blocks++;
    return b;
}

void
block_give(struct net *net, struct block *b)
{
    live.read_blocks--;
    if (b->cap == NET_BLOCK && net->free_blocks_n < NET_BLOCKS_KEPT) {
        b->next = net->free_blocks;
        net->free_blocks = b;
        net->free_blocks_n++;
    } else if (b->cap == NET_BIG_BLOCK && net->free_big_blocks_n < NET_BIG_BLOCKS_KEPT) {
        b->next = net->free_big_blocks;
        net->free_big_blocks = b;
        net->free_big_blocks_n++;
    } else {
        free(b);
    }
}

struct chunk *
chunk_take(struct net *net, size_t need)
{
    struct chunk *ch = net->free_chunks;
    if (need <= NET_CHUNK && ch != NULL) {
        net->free_chunks = ch->next;
        net->free_chunks_n--;
    } else {
        size_t cap = need < NET_CHUNK ? (size_t)NET_CHUNK : need;
        if (cap > UINT32_MAX / 2 || (ch = malloc(sizeof(*ch) + cap)) == NULL)
            return NULL;
        ch->cap = (uint32_t)cap;
    }
    ch->next = NULL;
    ch->used = 0;
    ch->first = ch->n = 0;
    live.chunks++;
    return ch;
}

void
chunk_give(struct net *net, struct chunk *ch)
{
    live.chunks--;
    if (ch->cap == NET_CHUNK && net->free_chunks_n < NET_CHUNKS_KEPT) {
        ch->next = net->free_chunks;
        net->free_chunks = ch;
        net->free_chunks_n++;
    } else {
        free(ch);
    }
}

void
blocks_fini(struct net *net)
{
    for (struct block *b; (b = net->free_blocks) != NULL;) {
        net->free_blocks = b->next;
        free(b);
    }
    for (struct block *b; (b = net->free_big_blocks) != NULL;) {
        net->free_big_blocks = b->next;
        free(b);
    }
    for (struct chunk *ch; (ch = net->free_chunks) != NULL;) {
        net->free_chunks = ch->next;
        free(ch);
    }
    net->free_blocks_n = net->free_big_blocks_n = net->free_chunks_n = 0;
}

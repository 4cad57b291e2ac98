/* page.h: the status page: metrics.page. Part of the small server of health.c, on metrics.bind alone; it only tells, and changes nothing.
 *
 *     / and /status             the page (page/status.html, in the program)
 *     /status.json              the command `metrics` of ctl.h
 *     /status/history.json      the last minutes of the same, a sample a second: {"bounds_s": [...], "samples": [...]}
 *     /status/requests.json, /status/tasks.json, /status/threads.json, /status/blocks.json,
 *     /status/advise.json       as the commands
 *
 * The master's thread. */
#ifndef RINGCORN_MASTER_PAGE_H
#define RINGCORN_MASTER_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "http/http.h"

struct master;
struct page;

/* NULL: no memory. */
struct page *page_new(struct master *m);
/* Requests that wait are forgotten. NULL is fine. */
void page_free(struct page *p);
/* The same while its connections live: who waits for an answer gets 503. */
void page_close(struct page *p);
/* Takes the request, if it is for one of the paths: answers it, or keeps it until page_turn(). */
bool page_begin(struct page *p, struct h1 *h);
/* Answers what is known now, takes a sample when one is due. Returns how many were answered. */
unsigned page_turn(struct page *p);
int64_t page_next_ns(const struct page *p);

#endif

/* list.h: counters and gauges of a worker, once for all: X(field, family, labels, help).
 *
 * The family is the metric's name without "ringcorn_" (and "_total", which counters get); lines of one family stand together, and
 * the first one's help is the family's. labels: of this line, beside worker="N". A line here is all that a new counter needs, beside the
 * metrics_add() that counts. */
#ifndef RINGCORN_METRICS_LIST_H
#define RINGCORN_METRICS_LIST_H

/* clang-format off */

/* The loop's thread. */
#define METRICS_LOOP_COUNTERS(X)                                                                                          \
    X(accepted,         "connections_accepted",  "",                      "Connections accepted.")                        \
    X(accept_pauses,    "accept_pauses",         "reason=\"limit\"",      "Times that accepting paused: at limits.connections (or limits.handshakes), or for want of descriptors or memory.") \
    X(accept_starved,   "accept_pauses",         "reason=\"resources\"",  "")                                             \
    X(bytes_in,         "received_bytes",        "",                      "Bytes read from connections, without those of TLS.")      \
    X(bytes_out,        "sent_bytes",            "",                      "Bytes sent on connections, with those of TLS.")     \
    X(tls_done,         "tls_handshakes",        "result=\"new\"",        "TLS handshakes: new sessions, resumed ones, and those that failed.") \
    X(tls_resumed,      "tls_handshakes",        "result=\"resumed\"",    "")                                             \
    X(tls_failed,       "tls_handshakes",        "result=\"failed\"",     "")                                             \
    X(ws_accepted,      "websockets_accepted",   "",                      "WebSockets accepted.")                         \
    X(ws_messages_in,   "websocket_messages",    "direction=\"in\"",      "Messages of WebSockets.")                      \
    X(ws_messages_out,  "websocket_messages",    "direction=\"out\"",     "")                                             \
    X(ws_bytes_in,      "websocket_bytes",       "direction=\"in\"",      "Bytes of WebSockets' messages, uncompressed.") \
    X(ws_bytes_out,     "websocket_bytes",       "direction=\"out\"",     "")                                             \
    X(ws_closed_normal, "websockets_closed",     "code=\"1000\"",         "WebSockets that ended, by close code: 1000, 1001, another 1xxx, 3xxx or 4xxx, or none (1005, 1006).") \
    X(ws_closed_away,   "websockets_closed",     "code=\"1001\"",         "")                                             \
    X(ws_closed_1xxx,   "websockets_closed",     "code=\"1xxx\"",         "")                                             \
    X(ws_closed_3xxx,   "websockets_closed",     "code=\"3xxx\"",         "")                                             \
    X(ws_closed_4xxx,   "websockets_closed",     "code=\"4xxx\"",         "")                                             \
    X(ws_closed_none,   "websockets_closed",     "code=\"none\"",         "")                                             \
    X(gate_full,        "request_refusals",      "reason=\"full\"",       "Requests above limits.concurrency for which limits.queue had no room, or which waited for limits.queue_timeout; they are answered 503.") \
    X(gate_timeout,     "request_refusals",      "reason=\"timeout\"",    "")                                             \
    X(ring_submitted,   "ring_submissions",      "",                      "Operations handed to io_uring.")               \
    X(ring_completed,   "ring_completions",      "",                      "Completions taken from io_uring.")             \
    X(ring_enters,      "ring_enters",           "",                      "Calls of io_uring_enter().")                   \
    X(ring_overflows,   "ring_overflows",        "",                      "Times that completions did not fit into the ring.") \
    X(ring_full,        "ring_submission_full",  "",                      "Times that the ring had no room for a submission.")

#define METRICS_LOOP_GAUGES(X)                                                                                            \
    X(conns_handshake,  "connections",           "state=\"handshake\"",   "Open connections: in a TLS handshake, idle, with a request, WebSockets, closing.") \
    X(conns_idle,       "connections",           "state=\"idle\"",        "")                                             \
    X(conns_request,    "connections",           "state=\"request\"",     "")                                             \
    X(conns_websocket,  "connections",           "state=\"websocket\"",   "")                                             \
    X(conns_closing,    "connections",           "state=\"closing\"",     "")                                             \
    X(turn_max_ns,      "loop_lag_max_seconds",  "",                      "The longest turn of the event loop since the worker started.")

/* Of a crew of threads, under its mutex; they get pool="requests" or pool="executor" too. */
#define METRICS_CREW_COUNTERS(X)                                                                                          \
    X(jobs,             "thread_jobs",           "",                      "Calls that threads have run.")                 \
    X(refused_full,     "thread_refusals",       "reason=\"full\"",       "Requests that got no thread: sync.queue was full, or sync.queue_timeout passed; they are answered 503.") \
    X(refused_timeout,  "thread_refusals",       "reason=\"timeout\"",    "")                                             \
    X(started,          "threads_started",       "",                      "Threads started.")

#define METRICS_CREW_GAUGES(X)                                                                                            \
    X(threads,          "threads",               "",                      "Threads that there are.")                      \
    X(slots,            "thread_slots",          "",                      "Threads that may run at once.")                \
    X(busy,             "thread_slots_busy",     "",                      "Slots in use.")                                \
    X(leased,           "threads_leased",        "",                      "Threads that a request keeps.")                \
    X(waiting,          "thread_queue",          "",                      "Requests that wait for a thread.")

/* Of guardrails (server/guard/, ringcorn.guard): with the GIL. One family, a line for each kind of ringcorn.guard.KINDS; and of ringcorn.cancel. */
#define METRICS_GUARD_COUNTERS(X)                                                                                         \
    X(loop_blocks,      "guard_events",         "kind=\"block\"",       "What guardrails have noticed, by kind: the event loop blocked for guard.loop_block or longer, coroutines never awaited, exceptions that nobody asked for, Django's ORM on the loop, transactions left open or split, an AsyncSession in two tasks, requests that find no thread, tasks that outlive their request, generators left open, cancellations swallowed.") \
    X(unawaited,        "guard_events",         "kind=\"unawaited\"",   "") \
    X(lost,             "guard_events",         "kind=\"lost\"",        "") \
    X(sync,             "guard_events",         "kind=\"sync\"",        "") \
    X(transaction,      "guard_events",         "kind=\"transaction\"", "") \
    X(session,          "guard_events",         "kind=\"session\"",     "") \
    X(threads,          "guard_events",         "kind=\"threads\"",     "") \
    X(orphan,           "guard_events",         "kind=\"orphan\"",      "") \
    X(unclosed,         "guard_events",         "kind=\"unclosed\"",    "") \
    X(swallowed,        "guard_events",         "kind=\"swallowed\"",   "") \
    X(queries_gone,     "queries_cancelled",    "kind=\"gone\"",        "Queries of requests that were given up, which the server has cancelled: their client has gone, their time was over, the worker leaves.") \
    X(queries_overdue,  "queries_cancelled",    "kind=\"overdue\"",     "") \
    X(queries_leaving,  "queries_cancelled",    "kind=\"leaving\"",     "")

#define METRICS_GUARD_GAUGES(X)                                                                                           \
    X(loop_block_max_ns, "loop_block_max_seconds", "",                    "The longest of those blocks since the worker started.")

/* Of a route of the application, of all workers together: sums over its requests, with the GIL; names that end in _ns are seconds for Prometheus.
 * spent.h says where each comes from. */
#define METRICS_ROUTE_COUNTERS(X)                                                                                         \
    X(requests,         "route_requests",        "",                      "Requests by the application's route, of all workers; other = no route is told, or there are more than are told apart.") \
    X(errors,           "route_errors",          "",                      "Requests by route that were answered 5xx.")    \
    X(request_ns,       "route_duration_seconds", "",                     "Time of requests by route, from head to answer.") \
    X(thread_ns,        "route_thread_seconds",  "",                      "Time that requests of a route have kept threads of the pool.") \
    X(thread_cpu_ns,    "route_thread_cpu_seconds", "",                   "CPU of threads for a route, measured on some of its calls.") \
    X(looked_gil_ns,    "route_thread_waits_seconds", "for=\"gil\"",      "Where threads were found when they were looked at, by what they waited for, as time.") \
    X(looked_net_ns,    "route_thread_waits_seconds", "for=\"network\"",  "")                                             \
    X(looked_sleep_ns,  "route_thread_waits_seconds", "for=\"sleep\"",    "")                                             \
    X(looked_other_ns,  "route_thread_waits_seconds", "for=\"other\"",    "")                                             \
    X(looked_run_ns,    "route_thread_waits_seconds", "for=\"nothing\"",  "")                                             \
    X(slot_wait_ns,     "route_thread_queue_seconds", "",                 "What requests of a route have waited for a thread.") \
    X(driver_ns,        "route_database_seconds", "",                     "Time that threads have spent in database drivers for a route, where those are known.") \
    X(looked_driver_gil_ns, "route_database_gil_seconds", "",             "Where threads of a route were found waiting for the GIL on their way back from a database driver, as time.") \
    X(hops,             "route_thread_calls",    "",                      "Calls to threads that requests of a route have made.") \
    X(loop_ns,          "route_loop_seconds",    "",                      "Time that steps of the event loop have taken for a route, short ones measured on some of them.") \
    X(loop_cpu_ns,      "route_loop_cpu_seconds", "",                     "CPU of those.")                                \
    X(loop_gil_ns,      "route_loop_gil_seconds", "",                     "What steps for a route have waited until the event loop had the GIL.") \
    X(long_steps,       "route_long_steps",      "",                      "Steps of the event loop of 10 ms and more, by route.") \
    X(long_step_ns,     "route_long_step_seconds", "",                    "Time of those.") \
    X(long_gil_ns,      "route_long_step_gil_seconds", "",                "Where those were found waiting for the GIL, which another thread had taken from them, as time.")

#define METRICS_ROUTE_GAUGES(X)                                                                                           \
    X(step_max_ns,      "route_step_max_seconds", "",                     "The longest step of the event loop that a request of a route has taken since the server started: everybody else waited.")

/* Of databases (ringcorn.database_count): with the GIL. */
#define METRICS_DATABASE_GAUGES(X)                                                                                        \
    X(connections,      "database_connections",  "",                      "Connections to databases that Django and SQLAlchemy have open.") \
    X(connections_max,  "database_connections_max", "",                   "The most of them at once since the worker started.")

/* clang-format on */

#endif

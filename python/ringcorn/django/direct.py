"""A request that was handed to a thread without a task on the loop: no crossing at all, where its view is synchronous.

*exchange* is the request, to the thread that has it:

    scope                    as of ASGI
    body                     a file, which is there as a whole: read(), readline(), close()
    start(status, headers)   the head, as pairs of bytes
    write(data)              a piece of the body, or none; waits while the client is slow, raises where it has gone
    finish(data=b"")         the last of it
"""

import asyncio
from contextvars import copy_context

from django.urls import set_script_prefix

from . import answer, async_view, contexts, urls
from .hops import enter_thread
from .job import Job
from .signals import started
from .watch import Watch

NOT_MINE = object()


def run(handler, plan, loop, exchange):
    """On the thread, as a job of the request's lease, in a context of the request's own. Raises what the application raises.

    Returns None where the request is answered; NOT_MINE where it was not touched, and is to be served by the handler as an ASGI
    application; or a function of (receive, send) that makes a coroutine: what is left to do, in the same context, on the loop."""
    scope = exchange.scope
    guess = urls.guess(scope)
    if guess.is_async or (contexts.RECEIVERS_ARE_APART and started.look().have_async):
        return NOT_MINE
    if plan.sync_chain is None:
        plan.build_sync()
        if plan.sync_chain is None:  # it is not understood, or the async chain has it
            return NOT_MINE
    context = copy_context()
    job = Job(handler, plan, scope, exchange.body, guess)
    is_left = False
    try:
        context.run(_run, loop, context, job)
        if job.view_is_async:
            is_left = True
            return lambda receive, send: _respond(handler, plan, job, context, receive, send)
        response = job.response
        if job.content is None and response.is_async:
            is_left = True
            return lambda receive, send: _stream(handler, plan, job, context, receive, send)
        exchange.start(job.status, job.headers)
        if job.content is not None:
            exchange.finish(job.content)
        else:
            job.inside.run(_write, response, exchange)
    finally:
        if not is_left:
            context.run(job.close)
    return None


def _run(loop, context, job):
    enter_thread(loop, context, [])
    job.run()


def _write(response, exchange):
    for piece in response:
        exchange.write(piece)
    exchange.finish()


async def _respond(handler, plan, job, context, receive, send):
    trips = plan.trips()
    set_script_prefix(urls.script_prefix(job.scope))
    watch = Watch(handler, receive, trips.loop) if plan.watches else None
    await async_view.respond(plan, job.request, job.body, plan.async_chain.go_on(job.request), job.inside, send, trips, watch, context)


async def _stream(handler, plan, job, context, receive, send):
    trips = plan.trips()
    watch = Watch(handler, receive, trips.loop) if plan.watches else None
    try:
        await contexts.await_apart(job.inside, answer.send_stream(send, job.response, job.headers, trips))
    except asyncio.CancelledError:
        if watch is None or not watch.was_it():
            raise
    finally:
        if watch is not None:
            watch.end()
        await trips.run(job.close, context=context, is_last=True)

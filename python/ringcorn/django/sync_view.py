"""A request whose URL leads to a synchronous view: one trip to its thread for everything, and one to close, which nobody waits for.

On the loop: the body is read before, the answer sent after; the iterator of a streaming answer is pulled on the thread.
"""

import asyncio
from contextvars import copy_context

from django.core.exceptions import RequestAborted

from . import answer, async_view, body
from .hops import NoThread, restore
from .job import Job
from .watch import Watch


async def serve(handler, plan, guess, scope, receive, send, trips):
    loop = trips.loop
    try:
        file = await body.read(receive, loop)
    except RequestAborted:
        return
    is_ours = type(send).__module__ == "_ringcorn"  # nothing of the application's is between
    context = copy_context()
    job = Job(handler, plan, scope, file, guess)
    watch = Watch(handler, receive, loop) if plan.watches else None
    try:
        try:
            await trips.run(job.run, context=context)
        except NoThread:  # it has not begun
            file.close()
            job = None
            raise
        if job.view_is_async:
            restore(job.inside)
            going_on = plan.async_chain.go_on(job.request)
            return await async_view.respond(plan, job.request, file, going_on, send, trips, watch, context)
        if job.content is not None:
            if not is_ours:
                restore(job.inside)
            await answer.send_whole(send, job.status, job.headers, job.content, not is_ours)
        else:
            restore(job.inside)
            await answer.send_stream(send, job.response, job.headers, trips, job.inside)
    except asyncio.CancelledError:
        if watch is None or not watch.was_it():
            raise
    finally:
        if watch is not None:
            watch.end()
        if job is not None and not job.view_is_async:
            # Behind whatever of the request still runs on its thread.
            if is_ours:
                trips.start(context, job.close_unattended)
            else:
                await trips.start(context, job.close)

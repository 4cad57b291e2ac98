"""A request whose URL leads to a synchronous view, and that came by the loop: one trip to its thread for everything, and one to close, which
nobody waits for. (Most are on their thread from the first: direct.py.)

On the loop: the body is read before, the answer sent after; the iterator of a streaming answer is pulled on the thread.
"""

import asyncio
from contextvars import copy_context

from django.core.exceptions import RequestAborted
from django.urls import set_script_prefix

from . import answer, async_view, body, contexts, urls
from .hops import NoThread
from .job import Job
from .signals import started
from .watch import Watch


async def serve(handler, plan, guess, scope, receive, send, trips):
    loop = trips.loop
    try:
        file = await body.read(receive, loop)
    except RequestAborted:
        return
    is_ours = type(send).__module__ == "_ringcorn"  # nothing of the application's is between
    context = copy_context() if contexts.ARE_APART else None
    job = Job(handler, plan, scope, file, guess)
    if contexts.RECEIVERS_ARE_APART and started.look().have_async:  # sent from a thread, they would come after the others
        set_script_prefix(urls.script_prefix(scope))
        await plan.send_started(trips, scope)
        job.is_started = True
    watch = Watch(handler, receive, loop) if plan.watches else None
    try:
        try:
            await trips.run(job.run, context=context)
        except NoThread:  # it has not begun
            file.close()
            job = None
            raise
        if handler.teach is not None:
            handler.teach(scope, not job.view_is_async)
        if job.view_is_async:
            going_on = plan.async_chain.go_on(job.request)
            return await async_view.respond(plan, job.request, file, going_on, job.inside, send, trips, watch, context)
        if job.content is None:
            sending = answer.send_stream(send, job.response, job.headers, trips)
        else:
            sending = answer.send_whole(send, job.status, job.headers, job.content, not is_ours)
        if is_ours and job.content is not None:  # nobody is there to see the view's context variables
            await sending
        else:
            await contexts.await_apart(job.inside, sending)
    except asyncio.CancelledError:
        if watch is None or not watch.was_it():
            raise
    finally:
        if watch is not None:
            watch.end()
        if job is not None and not job.view_is_async:
            # Behind whatever of the request still runs on its thread.
            closing = copy_context() if context is None else context
            if is_ours:
                trips.start(closing, job.close_unattended, is_last=True)
            else:
                await trips.start(closing, job.close, is_last=True)

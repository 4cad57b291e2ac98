"""A request whose URL leads to a coroutine function: on the loop, with trips to its thread for what may block."""

import asyncio
from contextvars import copy_context

from django.core import signals
from django.core.exceptions import RequestAborted
from django.urls import set_script_prefix

from . import answer, body, contexts, urls
from .chain import GUESS
from .signals import has_nothing_to_finish
from .watch import Watch


async def serve(handler, plan, guess, scope, receive, send, trips):
    if handler.teach is not None:
        handler.teach(scope, False)
    try:
        file = await body.read(receive, trips.loop)
    except RequestAborted:
        return
    set_script_prefix(urls.script_prefix(scope))
    if signals.request_started.receivers:
        await plan.send_started(trips, scope)
    request, response = plan.create_request(handler, scope, file)
    outside = copy_context()
    if request is None:
        file.close()
        try:
            await _send(response, send, trips)
        finally:
            await trips.run(response.close)
        return
    request.__dict__[GUESS] = guess
    watch = Watch(handler, receive, trips.loop) if plan.watches else None
    responding = plan.async_chain.get_response_async(request)
    await respond(plan, request, file, responding, copy_context(), send, trips, watch, outside)


async def respond(plan, request, file, responding, inside, send, trips, watch, outside):
    """From the coroutine *responding*, which has the response, to the end.

    *inside*: the context of the view. *outside*: the context that request_finished is sent in."""
    answering = _Answering()
    has_left = False
    try:
        await contexts.await_apart(inside, answering.run(plan, responding, send, trips))
    except asyncio.CancelledError:
        has_left = watch is not None and watch.was_it()
        if not has_left:
            raise
    finally:
        if watch is not None:
            watch.end()
        try:
            if answering.response is not None:
                await _close(request, answering.response, trips, outside)
            elif has_left:
                await plan.send_finished(trips, outside)
        finally:
            file.close()


class _Answering:
    response = None  # there once the view and the middleware have ended

    async def run(self, plan, responding, send, trips):
        response = await responding
        plan.adopt(response)
        self.response = response
        await _send(response, send, trips)


async def _send(response, send, trips):
    headers = answer.head(response)
    if response.streaming:
        await answer.send_stream(send, response, headers, trips)
    else:
        is_ours = type(send).__module__ == "_ringcorn"
        await answer.send_whole(send, response.status_code, headers, response.content, not is_ours)


async def _close(request, response, trips, outside):
    closers = response._resource_closers
    has_only_request = len(closers) == 1 and not request.__dict__.get("_files")
    if has_only_request and not trips.may_have_used_thread and has_nothing_to_finish():
        closers.clear()
        response.closed = True
        request.close()
    elif contexts.ARE_APART:
        await trips.run(response.close, context=outside, is_last=True)
    else:
        await trips.run(response.close, is_last=True)

"""guard.mode raise: a request in which a guardrail has noticed something answers 500, where its answer has not begun."""

import contextvars

_request = contextvars.ContextVar("ringcorn_guard_request", default=None)


class GuardError(RuntimeError):
    """Raised by send() in place of the answer; the message says what a guardrail has noticed."""


class _Request:
    event = None


def fail(event, context):
    request = context.get(_request)
    if request is not None and request.event is None:
        request.event = event


def wrap(app):
    async def guarded(scope, receive, send):
        if scope["type"] != "http":
            return await app(scope, receive, send)
        request = _Request()
        is_told = False

        async def send_unless(message):
            nonlocal is_told
            if message["type"] == "http.response.start" and request.event is not None and not is_told:
                is_told = True  # what the framework answers to the exception goes out
                raise GuardError(request.event.message)
            await send(message)

        token = _request.set(request)
        try:
            await app(scope, receive, send_unless)
        finally:
            _request.reset(token)

    return guarded

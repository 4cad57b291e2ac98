"""One AsyncSession of SQLAlchemy that two tasks use at once.

SQLAlchemy notices that sometimes, and then as an error about something else; otherwise both are in one transaction, and what one of them commits or rolls
back is the other's too. All that an AsyncSession does goes through one function, greenlet_spawn(): while a call of one task has not come back, a
call of another is told of.
"""

import asyncio
import contextvars
import functools

from . import Event, emit, fail, is_allowed, is_news, source, tasks, whose

_USER = "_ringcorn_user"  # attribute of a Session: the task whose call has not come back

_CURE = "give each task an AsyncSession of its own, or await one after the other"


def watch():
    from sqlalchemy.ext.asyncio import session as module
    from sqlalchemy.orm import Session, SessionTransaction, object_session

    stock = module.greenlet_spawn

    def session_of(fn, args):
        owner = getattr(fn, "__self__", None)
        if isinstance(owner, Session):
            return owner
        if isinstance(owner, SessionTransaction):
            return owner.session
        if args and fn is getattr:  # awaitable_attrs
            return object_session(args[0])
        return args[0] if args and isinstance(args[0], Session) else None  # run_sync()

    @functools.wraps(stock)
    async def greenlet_spawn(fn, *args, **kwargs):
        session = session_of(fn, args)
        if session is None:
            return await stock(fn, *args, **kwargs)
        mine, task = session.__dict__, asyncio.current_task()
        user = mine.get(_USER)
        if user is not None:
            if user is not task and not is_allowed("session"):
                _tell(user, task)
            return await stock(fn, *args, **kwargs)
        mine[_USER] = task
        try:
            return await stock(fn, *args, **kwargs)
        finally:
            mine.pop(_USER, None)

    module.greenlet_spawn = greenlet_spawn


LIBRARIES = {"sqlalchemy.ext.asyncio.session": watch}


def _where(task, place):
    """*place*: where it is, or None: then where somebody awaits it, as gather() runs a coroutine of SQLAlchemy's by itself."""
    if place is None:
        for other in asyncio.all_tasks():
            if tasks.waits_for(other, task):
                place = source.awaits(other.get_coro())
    return place


def _tell(first, second):
    context = contextvars.copy_context()
    label, its_id = whose(context, second)
    places = [_where(first, source.awaits(first.get_coro())), _where(second, source.caller())]
    place = places[1] or places[0]
    words = [f"task {task.get_name()!r}" + (f" {where}" if where else "") for task, where in zip((first, second), places)]
    message = f"{label or 'unknown request'}: one AsyncSession is used by two tasks at once: {words[1]}; and {words[0]}; {_CURE}"
    file, line, function = (place.file, place.line, place.function) if place else (None, None, None)
    event = Event("session", message, label, its_id, file, line, function, cure=_CURE)
    fail(event, context)
    emit(event, is_news(event))

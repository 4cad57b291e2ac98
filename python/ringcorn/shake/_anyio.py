"""``anyio.to_thread.run_sync()`` (FastAPI's ``def`` endpoints and dependencies) on a loop in shake mode: its calls are made as the loop's own are."""

import sys

_is_installed = False


def install():
    """Once a process, when AnyIO is there. Another AnyIO than the one we know keeps its own threads."""
    global _is_installed
    if _is_installed or "anyio" not in sys.modules:
        return
    try:
        from anyio._core import _eventloop

        stock = _eventloop.get_async_backend("asyncio")
        _eventloop.loaded_backends["asyncio"] = _make_backend(stock, sys.modules[stock.__module__], _eventloop)
    except (ImportError, AttributeError):
        return
    _is_installed = True


def _make_backend(stock, module, _eventloop):
    import asyncio
    from contextvars import copy_context

    from .loop import ShakeLoop

    CancelScope, claim, threadlocals = module.CancelScope, _eventloop.claim_worker_thread, _eventloop.threadlocals
    library = _eventloop.sniffio.current_async_library_cvar if getattr(_eventloop, "sniffio", None) is not None else None

    def call(loop, context, scope, func, args):
        """On the thread: (result, exception), as a future makes others of some."""
        with claim(Backend, loop):
            threadlocals.current_cancel_scope = scope
            try:
                return context.run(func, *args), None
            except BaseException as e:
                return None, e
            finally:
                del threadlocals.current_cancel_scope

    class Backend(stock):
        @classmethod
        async def run_sync_in_worker_thread(cls, func, args, abandon_on_cancel=False, limiter=None):
            loop = asyncio.get_running_loop()
            if not isinstance(loop, ShakeLoop):
                return await super().run_sync_in_worker_thread(func, args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
            await cls.checkpoint()
            async with limiter or cls.current_default_thread_limiter():
                with CancelScope(shield=not abandon_on_cancel) as scope:
                    context = copy_context()
                    if library is not None:
                        context.run(library.set, None)
                    if not abandon_on_cancel and scope._parent_scope is not None:
                        scope = scope._parent_scope
                    result, error = await loop.run_in_executor(None, call, loop, context, scope, func, args)
            if error is None:
                return result
            try:
                if isinstance(error, StopIteration):
                    raise RuntimeError("coroutine raised StopIteration") from error
                raise error
            finally:
                del error

    Backend.__module__ = stock.__module__
    Backend.__name__ = Backend.__qualname__ = stock.__name__
    return Backend

"""Django by view: a sync view and its middleware run in one trip to a thread, an async view on the loop, with few trips or none.

Nothing of Django is imported here before the application has done so, and nothing in it is changed but the class of its ASGI handlers.
Where anything about a project is not understood Django's own path is taken, and a line says why.
"""

import sys

from .. import hooks, log


def install(app, loop, pool, options):
    """Once, after the application was imported and before it is served; in the loop's thread. *pool*: the threads of synchronous code.

    options: django_one_hop ("auto" or "off"), django_start_hop ("move" or "stock"), slot (of the worker; the first one speaks for all), and
    those of database.install().
    Returns the application."""
    if "django.db" in sys.modules and sys.modules["django.conf"].settings.configured:
        from . import cancelled, database

        database.install(pool, loop._executor_pool, options)
        cancelled.install()
        # Where another framework uses the ORM alone, nobody sends the signal, and connections stay as long as their threads.
        is_served = "django.core.handlers.base" in sys.modules
        if is_served and options["django_start_hop"] == "move" and pool.context_vars:
            from .signals import move_start

            if begin := move_start():
                hooks.add(pool, "on_acquire", begin)
    if "django.core.handlers.asgi" in sys.modules and options["django_one_hop"] == "auto":
        _adopt_handlers(pool, log.info if options.get("slot", 0) == 0 else log.debug)
    return app


def _adopt_handlers(pool, say):
    from . import recognise
    from .handler import Handler
    from .plan import Plan

    handlers = recognise.find_handlers()
    if not handlers:
        return
    try:
        recognise.check_django()
    except recognise.NotUnderstood as e:
        say("Django: its own path is taken for every request, as %s", e)
        return
    for handler in handlers:
        plan = Plan(handler, pool)
        if plan.why_not_sync is not None:
            say("Django: its own path is taken for every request, as %s", plan.why_not_sync)
            continue
        if plan.why_not_async is not None:
            say("Django: sync views run in one trip to a thread; async views take Django's own path, as %s", plan.why_not_async)
        else:
            say("Django: sync views run in one trip to a thread, async views on the loop")
        handler._plan = plan
        handler.__class__ = Handler

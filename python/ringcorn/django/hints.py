"""Settings of a Django project that take away what persistent threads and connections give: a line each, with what to change.

Only what is certain is said. Called in the main thread, with Django set up, by one worker at start and by --check-config.
"""

import ast
import functools
import importlib.util
import sys

import django
from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.db import connections
from django.db.utils import load_backend
from django.urls import URLPattern, get_resolver
from django.utils.module_loading import import_string

POOL_SIZE = 4  # psycopg_pool's own min_size, and max_size where it is not given
NAMES_MAX = 3  # views and middleware named in a line
STARS_MAX = 20  # settings modules that import one another with *


def find(threads, is_asgi=True, conn_max_age="inherit"):
    """Returns the lines.

    *threads*: sync.threads. *is_asgi*: an ASGI application is served. *conn_max_age*: the key of that name.
    """
    # Without a handler of Django's nobody looks at CONN_MAX_AGE: another framework uses the ORM alone.
    is_served = "django.core.handlers.base" in sys.modules
    is_asgi = is_asgi and "django.core.handlers.asgi" in sys.modules
    lines = []
    for alias, values in connections.settings.items():
        lines += _database(alias, values, threads, is_served and conn_max_age.lower() == "inherit")
    if is_asgi and hasattr(settings, "ROOT_URLCONF"):
        lines += _asynchronous_views()
    return lines


def vendor_of(values):
    """'postgresql', 'mysql', ..., or None where the backend cannot be had; Django will say so when it is used."""
    try:
        return load_backend(values["ENGINE"]).DatabaseWrapper.vendor
    except Exception:
        return None


def _database(alias, values, threads, has_age):
    vendor = vendor_of(values)
    if vendor in (None, "unknown", "sqlite"):  # Django's dummy; a file, which is opened at once
        return
    name = f"DATABASES[{alias!r}] ({where('DATABASES')})"
    size = pool_size(vendor, values)
    if size is not None:
        yield from _pool(name, values, size, threads)
    elif values["OPTIONS"].get("pool") or not has_age:
        return  # a pool of another backend; not CONN_MAX_AGE of the settings
    elif values["CONN_MAX_AGE"] == 0:
        yield (
            f"{name}: CONN_MAX_AGE is 0, so every request opens a connection and closes it; "
            'write "CONN_MAX_AGE": 600 and "CONN_HEALTH_CHECKS": True there, or django.conn_max_age: 600 in ringcorn.yaml'
        )
    elif not values["CONN_HEALTH_CHECKS"]:
        yield (
            f"{name}: connections persist (CONN_MAX_AGE) without CONN_HEALTH_CHECKS, so after a restart of the database "
            'the next request on each thread fails; write "CONN_HEALTH_CHECKS": True there'
        )


def pool_size(vendor, values):
    """The most connections of OPTIONS["pool"], or None where there is no such pool, or it cannot be told."""
    pool = values["OPTIONS"].get("pool")
    if not pool or vendor != "postgresql" or django.VERSION < (5, 1):
        return None
    own = pool if isinstance(pool, dict) else {}
    size = own.get("max_size") or own.get("min_size", POOL_SIZE)
    return size if isinstance(size, int) else None


def _pool(name, values, size, threads):
    if values["CONN_MAX_AGE"] != 0:
        yield f'{name}: Django refuses OPTIONS["pool"] with CONN_MAX_AGE; remove CONN_MAX_AGE, or the pool, which persistent threads do without'
    elif size < threads:
        yield (
            f"{name}: the pool has at most {size} connection{'' if size == 1 else 's'} for {threads} threads, the others wait; "
            f'write "pool": {{"max_size": {threads}}}, or use CONN_MAX_AGE without a pool: each thread keeps its connection'
        )


def _asynchronous_views():
    atomic = [alias for alias, values in connections.settings.items() if values["ATOMIC_REQUESTS"]]
    middleware = _sync_only_middleware()
    if not atomic and not middleware:
        return
    try:
        views = {_view_name(view): view for view in _views(get_resolver()) if iscoroutinefunction(view)}
    except Exception as e:
        yield f"ROOT_URLCONF {settings.ROOT_URLCONF!r} cannot be imported, so every request will fail: {type(e).__name__}: {e}"
        return
    for alias in atomic:
        refused = [name for name, view in views.items() if alias not in getattr(view, "_non_atomic_requests", ())]
        if refused:
            yield (
                f"DATABASES[{alias!r}] ({where('DATABASES')}): Django refuses ATOMIC_REQUESTS with asynchronous views: {_some(refused)}; "
                "decorate them with django.db.transaction.non_atomic_requests"
            )
    if middleware and views:
        yield (
            f"MIDDLEWARE ({where('MIDDLEWARE')}): {_some(middleware)} {'is' if len(middleware) == 1 else 'are'} synchronous only, so each request "
            f"to an asynchronous view ({_some(list(views))}) blocks a thread from its beginning to its end; "
            "make it async_capable (django.utils.decorators.sync_and_async_middleware)"
        )


def _sync_only_middleware():
    """Dotted names of those that cannot run on the loop."""
    found = []
    for path in settings.MIDDLEWARE:
        try:
            middleware = import_string(path)
        except ImportError:
            continue  # Django says so when the handler is made
        if not getattr(middleware, "async_capable", False):
            found.append(path)
    return found


def _views(resolver):
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLPattern):
            yield pattern.callback
        elif hasattr(pattern, "url_patterns"):
            yield from _views(pattern)


def _view_name(view):
    while isinstance(view, functools.partial):
        view = view.func
    view = getattr(view, "view_class", view)
    return f"{view.__module__}.{getattr(view, '__qualname__', type(view).__name__)}"


def _some(names):
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")


def where(setting):
    """Where a setting is written, as far as it can be told: 'project/settings.py:52', or the module's name."""
    name = getattr(settings, "SETTINGS_MODULE", None)
    if name is None:
        return "settings.configure()"
    return _written(name, setting, set()) or name


def _written(name, setting, seen):
    """Its last assignment at the top of a settings module, or of one that is imported there with *."""
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None)
    if path is None or name in seen or len(seen) >= STARS_MAX:
        return None
    seen.add(name)
    try:
        with open(path, "rb") as f:
            tree = ast.parse(f.read())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in reversed(tree.body):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == setting for target in targets):
            return f"{path}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and any(one.name == "*" for one in node.names):
            package = name if hasattr(module, "__path__") else name.rpartition(".")[0]
            try:
                star = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            if found := _written(star, setting, seen):
                return found
    return None

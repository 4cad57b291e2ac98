"""What a URL resolves to, looked up on the loop before anything else of a request has run.

It is a guess: middleware may set another URLconf or another language. The chains look again (Guess.holds_for()), which costs nothing where
nothing has changed.
"""

from contextvars import copy_context

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.urls import get_resolver
from django.utils import translation

VIEWS_MAX = 10_000  # views whose kind is remembered

_kinds = {}  # view -> whether it is a coroutine function


def is_async(view):
    """As Django asks it; that takes a few microseconds, and the answer does not change."""
    try:
        return _kinds[view]
    except KeyError:
        if len(_kinds) >= VIEWS_MAX:
            _kinds.clear()
        kind = _kinds[view] = iscoroutinefunction(view)
        return kind
    except TypeError:  # not hashable
        return iscoroutinefunction(view)


class Guess:
    """A path's resolution. *match* is None where it was not found, or where the look-up itself failed."""

    __slots__ = ("match", "resolver", "path", "language", "is_async")

    def holds_for(self, request):
        """Whether Django's own look-up for *request*, now, would find the same. In the context that it would take place in."""
        return (
            self.match is not None
            and self.path == request.path_info
            and not hasattr(request, "urlconf")
            and self.resolver is get_resolver()
            and self.language == translation.get_language()
        )


class Found:
    """A resolution that Django's own look-up has made for the request."""

    __slots__ = ("match",)

    def __init__(self, match):
        self.match = match

    def holds_for(self, request):
        return True


def script_prefix(scope):
    """As Django's get_script_prefix(), which was a method before 5.0."""
    return settings.FORCE_SCRIPT_NAME or scope.get("root_path", "") or ""


def guess(scope):
    """Looks up a scope's path. On the loop's thread."""
    path = scope["path"]
    if prefix := script_prefix(scope):
        path = path.removeprefix(prefix)
    language = _language_of(path)
    if language is None:
        return _look_up(path)
    return copy_context().run(_look_up, path, language)


def _look_up(path, language=None):
    if language is not None:
        translation.activate(language)
    g = Guess()
    g.path = path
    g.language = translation.get_language()
    try:
        g.resolver = get_resolver()
        g.match = g.resolver.resolve(path)
    except Exception:  # not found; or a converter that may not run here: the chains will see
        g.match = g.resolver = None
        g.is_async = False
    else:
        g.is_async = is_async(g.match.func)
    return g


def _language_of(path):
    """The language that LocaleMiddleware is going to activate for a path of i18n_patterns(); None where that would be hard to say."""
    if not settings.USE_I18N or not is_language_prefix_patterns_used(settings.ROOT_URLCONF)[0]:
        return None
    language = translation.get_language_from_path(path)
    # Another language's first use reads its catalogues from the disk: that is for a thread to do.
    return language if language in _loaded_catalogues() else None


def _loaded_catalogues():
    from django.utils.translation import trans_real

    return getattr(trans_real, "_translations", ())

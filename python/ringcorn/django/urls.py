"""What a URL resolves to, looked up on the loop before anything else of a request has run.

It is a guess: middleware may set another URLconf or another language. The chains look again (Guess.holds_for()), which costs nothing where
nothing has changed.
"""

from contextvars import copy_context

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.urls import base, get_resolver, set_urlconf
from django.urls.resolvers import RegexPattern, RoutePattern
from django.utils import translation

from . import holders

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
            and (self.language is None or self.language == translation.get_language())
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


def enter(prefix):
    """set_script_prefix(prefix)."""
    holders.put(base._prefixes, "value", prefix if prefix.endswith("/") else prefix + "/")


def use_default():
    """set_urlconf(settings.ROOT_URLCONF)."""
    if urlconf := settings.ROOT_URLCONF:
        holders.put(base._urlconfs, "value", urlconf)
    else:
        set_urlconf(None)


def guess(scope):
    """Looks up a scope's path. On the loop's thread, or on the request's."""
    path = scope["path"]
    if prefix := script_prefix(scope):
        path = path.removeprefix(prefix)
    try:
        resolver = get_resolver()
        speaks = _speaks(resolver)
    except Exception:  # a URLconf that cannot be imported: for Django to say
        return _look_up(None, path, None)
    if not speaks:
        return _look_up(resolver, path, None)
    language = translation.get_language_from_path(path)
    if language in _loaded_catalogues():
        return copy_context().run(_look_up_in, language, resolver, path)
    # Another language's first use reads its catalogues from the disk: that is for a thread to do.
    return _look_up(resolver, path, translation.get_language())


def _look_up_in(language, resolver, path):
    translation.activate(language)  # as LocaleMiddleware is going to do
    return _look_up(resolver, path, translation.get_language())


def _look_up(resolver, path, language):
    g = Guess()
    g.resolver, g.path, g.language = resolver, path, language
    try:
        g.match = resolver.resolve(path)
    except Exception:  # not found; or a converter that may not run here: the chains will see
        g.match = None
        g.is_async = False
    else:
        g.is_async = is_async(g.match.func)
    return g


_spoken = (None, False)  # a resolver, and whether what it finds depends on the language


def _speaks(resolver):
    global _spoken
    known, answer = _spoken
    if resolver is not known:
        answer = settings.USE_I18N and any(map(_is_spoken, _patterns(resolver)))
        _spoken = resolver, answer
    return answer


def _patterns(resolver):
    """Of a tree of URLs, all patterns."""
    left = [resolver]
    while left:
        one = left.pop()
        yield one.pattern
        left += getattr(one, "url_patterns", ())


def _is_spoken(pattern):
    """Whether what it matches is a matter of language: i18n_patterns(), a translated route, or something of the project's own."""
    if type(pattern) is RoutePattern:
        return not isinstance(pattern._route, str)
    return type(pattern) is not RegexPattern or not isinstance(pattern._regex, str)


def _loaded_catalogues():
    from django.utils.translation import trans_real

    return getattr(trans_real, "_translations", ())

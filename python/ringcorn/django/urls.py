"""What a URL resolves to, looked up on the loop before anything else of a request has run.

It is a guess: middleware may set another URLconf or another language. The chains look again (Guess.holds_for()), which costs nothing where
nothing has changed.
"""

import types
from contextvars import copy_context

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.urls import base, converters, get_resolver, resolvers, set_urlconf
from django.urls.resolvers import RegexPattern, ResolverMatch, RoutePattern, URLPattern, URLResolver
from django.utils import translation

from . import genuine, holders

VIEWS_MAX = 10_000  # views whose kind is remembered
MATCHES_MAX = 512  # paths whose resolution is remembered
PATH_MAX = 200

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
        speaks, matches = _look_at(resolver)
    except Exception:  # a URLconf that cannot be imported: for Django to say
        return _look_up(None, path, None)
    if not speaks:
        return _look_up(resolver, path, None, matches)
    language = translation.get_language_from_path(path)
    if language in _loaded_catalogues():
        return copy_context().run(_look_up_in, language, resolver, path)
    # Another language's first use reads its catalogues from the disk: that is for a thread to do.
    return _look_up(resolver, path, translation.get_language())


def _look_up_in(language, resolver, path):
    translation.activate(language)  # as LocaleMiddleware is going to do
    return _look_up(resolver, path, translation.get_language())


def _look_up(resolver, path, language, matches=None):
    g = Guess()
    g.resolver, g.path, g.language = resolver, path, language
    try:
        g.match = resolver.resolve(path) if matches is None else _resolve(resolver, path, matches)
    except Exception:  # not found; or a converter that may not run here: the chains will see
        g.match = None
        g.is_async = False
    else:
        g.is_async = is_async(g.match.func)
    return g


def _resolve(resolver, path, matches):
    """What resolver.resolve(path) returns or raises. Django asks one pattern after the other; what a path has led to is remembered here."""
    known = matches.get(path)
    if known is not None:
        state, own = known
        match = ResolverMatch.__new__(ResolverMatch)
        match.__dict__ = state = state.copy()
        for name in own:
            state[name] = state[name].copy()
        return match
    match = resolver.resolve(path)
    if type(match) is ResolverMatch and len(path) <= PATH_MAX:
        state = vars(match).copy()
        # A request may change its own: middleware is given the arguments of the view.
        own = tuple(name for name, value in state.items() if type(value) in (dict, list))
        for name in own:
            state[name] = state[name].copy()
        if len(matches) >= MATCHES_MAX:
            matches.clear()
        matches[path] = state, own
    return match


_looked_at = (None, False, None)  # a resolver, whether what it finds depends on the language, and {path: what it has found}, or None


def _look_at(resolver):
    """(whether what it finds depends on the language, what _resolve() remembers of it, or None where it is to be asked each time)."""
    global _looked_at
    known, speaks, matches = _looked_at
    if resolver is not known:
        speaks = settings.USE_I18N and any(map(_is_spoken, _patterns(resolver)))
        _looked_at = resolver, speaks, (matches := {} if _is_constant(resolver) else None)
    return speaks, matches


_CONVERTERS = {getattr(converters, name) for name in ("IntConverter", "StringConverter", "UUIDConverter", "SlugConverter", "PathConverter")}


def _is_constant(resolver):
    """Whether a path leads to the same each time: nothing of the project's own, which might ask a database, looks at it."""
    left, found = [resolver], set()
    while left:
        one = left.pop()
        pattern = one.pattern
        if type(one) not in (URLResolver, URLPattern) or _is_spoken(pattern):
            return False
        found |= {type(one), type(pattern), *map(type, pattern.converters.values())}
        left += getattr(one, "url_patterns", ())
    return all((kind in _CONVERTERS or kind.__module__ == resolvers.__name__) and _is_genuine(kind) for kind in found)


def _is_genuine(kind):
    return all(genuine.replaced(cls) is None for cls in kind.__mro__ if any(isinstance(value, types.FunctionType) for value in vars(cls).values()))


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

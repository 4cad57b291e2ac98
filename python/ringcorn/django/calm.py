"""Hooks of Django's own middleware that are known not to block, and when: they may run on the loop.

Each was read in Django 4.2 to 6.1. It must be the class itself, and its hook the one in Django's file: of a subclass nothing is known.
A condition sees what the hook sees. Where it says no, the hook runs on the request's thread, as every other does.

    process_request     condition(request)
    process_view        condition(request, view)
    process_response    condition(request, response)
"""

import sys

from django.conf import settings
from django.utils import translation

from . import genuine

HOOKS = ("process_request", "process_view", "process_response")


def _always(*_):
    return True


def _found(request, response):
    """A 404 makes several of them look for another URL, in converters or in the database."""
    return getattr(response, "status_code", 404) != 404  # a hook further in may have returned None


def _no_www(request):
    return not settings.PREPEND_WWW  # or it looks a URL up


def _csrf_in_cookie(request, *_):
    return not settings.CSRF_USE_SESSIONS


def _csrf_nothing_to_check(request, view):
    """Else it reads the body, through upload handlers, and may render a page that says no."""
    return not settings.CSRF_USE_SESSIONS and (request.method in ("GET", "HEAD", "OPTIONS", "TRACE") or getattr(view, "csrf_exempt", False))


def _catalogue_loaded(request):
    """The first use of a language reads its catalogues from the disk."""
    if not settings.USE_I18N:
        return True
    from django.conf.urls.i18n import is_language_prefix_patterns_used
    from django.utils.translation import trans_real

    used, prefixed_default = is_language_prefix_patterns_used(getattr(request, "urlconf", settings.ROOT_URLCONF))
    languages = {translation.get_language_from_request(request, check_path=used)}
    if used and not prefixed_default:
        languages.add(settings.LANGUAGE_CODE)
    return languages <= getattr(trans_real, "_translations", {}).keys()


_SESSIONS = {"django.contrib.sessions.backends." + name for name in ("db", "cache", "cached_db", "signed_cookies")}
_MESSAGES = {"django.contrib.messages.storage." + name for name in ("fallback", "cookie", "session")}


def _session_of_django(request):
    return settings.SESSION_ENGINE in _SESSIONS


def _session_not_saved(request, response):
    session = getattr(request, "session", None)
    if session is None:
        return True
    return type(session).__module__ in _SESSIONS and not session.modified and not settings.SESSION_SAVE_EVERY_REQUEST


def _messages_of_django(request):
    return settings.MESSAGE_STORAGE.rpartition(".")[0] in _MESSAGES


def _no_messages(request, response):
    messages = getattr(request, "_messages", None)
    if messages is None:
        return True
    return type(messages).__module__ in _MESSAGES and not messages.used and not messages.added_new


def _not_head(request, view):
    return request.method != "HEAD"


_TABLE = {
    "django.middleware.security.SecurityMiddleware": {"process_request": _always, "process_response": _always},
    "django.middleware.common.CommonMiddleware": {"process_request": _no_www, "process_response": _found},
    "django.middleware.common.BrokenLinkEmailsMiddleware": {"process_response": _found},
    "django.middleware.csrf.CsrfViewMiddleware": {
        "process_request": _csrf_in_cookie, "process_view": _csrf_nothing_to_check, "process_response": _csrf_in_cookie,
    },
    "django.middleware.clickjacking.XFrameOptionsMiddleware": {"process_response": _always},
    "django.middleware.csp.ContentSecurityPolicyMiddleware": {"process_request": _always, "process_response": _always},
    "django.middleware.locale.LocaleMiddleware": {"process_request": _catalogue_loaded, "process_response": _found},
    "django.middleware.http.ConditionalGetMiddleware": {"process_response": _always},
    "django.contrib.sessions.middleware.SessionMiddleware": {"process_request": _session_of_django, "process_response": _session_not_saved},
    "django.contrib.auth.middleware.AuthenticationMiddleware": {"process_request": _always},
    "django.contrib.messages.middleware.MessageMiddleware": {"process_request": _messages_of_django, "process_response": _no_messages},
    "django.contrib.flatpages.middleware.FlatpageFallbackMiddleware": {"process_response": _found},
    "django.contrib.redirects.middleware.RedirectFallbackMiddleware": {"process_response": _found},
    "django.contrib.admindocs.middleware.XViewMiddleware": {"process_view": _not_head},
}  # fmt: skip


def condition(instance, hook):
    """When the *hook* of a middleware may run on the loop: a function; None = never."""
    cls = type(instance)
    found = _TABLE.get(f"{cls.__module__}.{cls.__qualname__}", {}).get(hook)
    if found is None or vars(sys.modules[cls.__module__]).get(cls.__name__) is not cls:
        return None
    if hook in vars(instance) or genuine.replaced(cls) is not None:
        return None
    return found

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

# What a row of the table says of a hook: ALWAYS, a condition, or a function of the settings that gives one of these, or None = never.
ALWAYS = True


def _setting(function):
    function.is_of_settings = True
    return function


def _found(request, response):
    """A 404 makes several of them look for another URL, in converters or in the database."""
    return getattr(response, "status_code", 404) != 404  # a hook further in may have returned None


@_setting
def _no_www():
    return ALWAYS if not settings.PREPEND_WWW else None  # or it looks a URL up


@_setting
def _csrf_in_cookie():
    return ALWAYS if not settings.CSRF_USE_SESSIONS else None


@_setting
def _csrf_view():
    return _csrf_nothing_to_check if not settings.CSRF_USE_SESSIONS else None


def _csrf_nothing_to_check(request, view):
    """Else it reads the body, through upload handlers, and may render a page that says no."""
    return request.method in ("GET", "HEAD", "OPTIONS", "TRACE") or getattr(view, "csrf_exempt", False)


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


@_setting
def _session_of_django():
    return ALWAYS if settings.SESSION_ENGINE in _SESSIONS else None


@_setting
def _session_saved_when_modified():
    return _session_not_modified if not settings.SESSION_SAVE_EVERY_REQUEST else None


def _session_not_modified(request, response):
    session = getattr(request, "session", None)
    return session is None or (type(session).__module__ in _SESSIONS and not session.modified)


@_setting
def _messages_of_django():
    return ALWAYS if settings.MESSAGE_STORAGE.rpartition(".")[0] in _MESSAGES else None


def _no_messages(request, response):
    messages = getattr(request, "_messages", None)
    return messages is None or (type(messages).__module__ in _MESSAGES and not messages.used and not messages.added_new)


def _not_head(request, view):
    return request.method != "HEAD"


_TABLE = {
    "django.middleware.security.SecurityMiddleware": {"process_request": ALWAYS, "process_response": ALWAYS},
    "django.middleware.common.CommonMiddleware": {"process_request": _no_www, "process_response": _found},
    "django.middleware.common.BrokenLinkEmailsMiddleware": {"process_response": _found},
    "django.middleware.csrf.CsrfViewMiddleware": {
        "process_request": _csrf_in_cookie, "process_view": _csrf_view, "process_response": _csrf_in_cookie,
    },
    "django.middleware.clickjacking.XFrameOptionsMiddleware": {"process_response": ALWAYS},
    "django.middleware.csp.ContentSecurityPolicyMiddleware": {"process_request": ALWAYS, "process_response": ALWAYS},
    "django.middleware.locale.LocaleMiddleware": {"process_request": _catalogue_loaded, "process_response": _found},
    "django.middleware.http.ConditionalGetMiddleware": {"process_response": ALWAYS},
    "django.contrib.sessions.middleware.SessionMiddleware": {"process_request": _session_of_django, "process_response": _session_saved_when_modified},
    "django.contrib.auth.middleware.AuthenticationMiddleware": {"process_request": ALWAYS},
    "django.contrib.messages.middleware.MessageMiddleware": {"process_request": _messages_of_django, "process_response": _no_messages},
    "django.contrib.flatpages.middleware.FlatpageFallbackMiddleware": {"process_response": _found},
    "django.contrib.redirects.middleware.RedirectFallbackMiddleware": {"process_response": _found},
    "django.contrib.admindocs.middleware.XViewMiddleware": {"process_view": _not_head},
}  # fmt: skip


def condition(instance, hook):
    """When the *hook* of a middleware may run on the loop: ALWAYS, a function, or None = never."""
    cls = type(instance)
    found = _TABLE.get(f"{cls.__module__}.{cls.__qualname__}", {}).get(hook)
    if found is None or vars(sys.modules[cls.__module__]).get(cls.__name__) is not cls:
        return None
    if hook in vars(instance) or genuine.replaced(cls) is not None:
        return None
    return found() if hasattr(found, "is_of_settings") else found

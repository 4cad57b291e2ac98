"""A project whose middleware is chosen by the environment: VIEWS_MIDDLEWARE is one of CHAINS."""

import os

SECRET_KEY = "for tests"
DEBUG = bool(os.environ.get("VIEWS_DEBUG"))
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "views_project.urls"
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = True
LANGUAGES = [("en", "English"), ("de", "Deutsch")]
FORCE_SCRIPT_NAME = os.environ.get("VIEWS_SCRIPT_NAME") or None
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.messages"]
if os.environ.get("VIEWS_STATIC"):
    INSTALLED_APPS += ["django.contrib.staticfiles"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("VIEWS_DATABASE", ":memory:"),
        "ATOMIC_REQUESTS": bool(os.environ.get("VIEWS_ATOMIC")),
    }
}
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", {
            "page.html": "value={{ value }}",
            "404.html": "nothing at {{ request_path }}",
            "500.html": "it broke",
        })]},
    }
]  # fmt: skip
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
STATIC_URL = "static/"
STATICFILES_DIRS = [os.path.dirname(__file__) + "/static"]
FILE_UPLOAD_MAX_MEMORY_SIZE = 100_000
DATA_UPLOAD_MAX_MEMORY_SIZE = 50_000
LOGGING = {"version": 1, "disable_existing_loggers": False, "root": {"level": "CRITICAL"}, "loggers": {"django": {"level": "CRITICAL"}}}

DEFAULT = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
OWN = "views_project.middleware."
CHAINS = {
    "none": [],
    "default": DEFAULT,
    "four": [DEFAULT[0], DEFAULT[2], DEFAULT[3], DEFAULT[6]],
    # Hooks of the project's own between Django's.
    "hooks": [OWN + "Outer", *DEFAULT[:3], OWN + "Middle", *DEFAULT[3:], OWN + "Inner"],
    "locale": [*DEFAULT[:2], "django.middleware.locale.LocaleMiddleware", *DEFAULT[2:], OWN + "Inner"],
    # Middleware that calls get_response() by itself, either way.
    "both": [OWN + "Outer", OWN + "both", DEFAULT[2], OWN + "BothClass", OWN + "Inner"],
    "sync_only": [OWN + "Outer", OWN + "SyncOnly", DEFAULT[2], OWN + "Inner"],
    "async_only": [OWN + "Outer", OWN + "async_only", OWN + "Inner"],
    "async_view_hook": [OWN + "Outer", OWN + "AsyncViewHook", OWN + "Inner"],
    "unused": [OWN + "Outer", OWN + "Unused", OWN + "Inner"],
}
MIDDLEWARE = CHAINS[os.environ.get("VIEWS_MIDDLEWARE", "default")]

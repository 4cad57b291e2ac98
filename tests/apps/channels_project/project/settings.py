"""A Django project with Channels: groups over Redis (CHAT_REDIS), users and sessions in SQLite, in CHAT_DATA."""

import os
from pathlib import Path

DATA_DIR = Path(os.environ["CHAT_DATA"])

SECRET_KEY = "an example's key, of no value"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "test"]
GREETING = "welcome"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request", "django.contrib.auth.context_processors.auth"]},
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "chat.sqlite3",
        "CONN_MAX_AGE": None,
        "OPTIONS": {"timeout": 20},
        "TEST": {"NAME": DATA_DIR / "chat-test.sqlite3"},  # a file: the server is another process
    }
}

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # channels-redis waits for five seconds at a time, which is all that redis-py 8 allows where nothing is said; and with a
            # timeout redis-py calls wait_for(), which up to Python 3.11 may lose that a consumer was cancelled: it then never ends.
            "hosts": [{"address": os.environ["CHAT_REDIS"], "socket_timeout": None}],
            "prefix": os.environ.get("CHAT_PREFIX", "chat"),
        },
    }
}

LOGIN_REDIRECT_URL = "/me/"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"

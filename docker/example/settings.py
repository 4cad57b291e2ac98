"""The example's settings in docker/compose.yaml: PostgreSQL and Redis in place of SQLite, files by nginx."""

import os
from pathlib import Path

from project.settings import *  # noqa: F403
from project.settings import MIDDLEWARE

SECRET_KEY = os.environ["SECRET_KEY"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["POSTGRES_HOST"],
        "PORT": os.environ.get("POSTGRES_PORT", ""),
        "NAME": os.environ["POSTGRES_DB"],
        "USER": os.environ["POSTGRES_USER"],
        "PASSWORD": os.environ["POSTGRES_PASSWORD"],
        # Connections stay with the threads (README, "Sync code: threads, connections").
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
    }
}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["REDIS_URL"]}}
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"

# Two volumes, which nginx has too: docker/example/nginx.conf.
FILES = Path(os.environ["GUESTBOOK_FILES"])
STATIC_ROOT = FILES / "static"
MEDIA_ROOT = FILES / "media"
MEDIA_URL = "media/"
MIDDLEWARE = [name for name in MIDDLEWARE if not name.startswith("whitenoise.")]

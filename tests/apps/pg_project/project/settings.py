"""A Django project on PostgreSQL; what differs between tests comes from the environment.

    PG_HOST PG_PORT PG_USER PG_NAME PG_APP    the server, and the application_name its connections get
    PG_MAX_AGE        CONN_MAX_AGE: seconds, or none (0 by default, as Django's)
    PG_HEALTH=1       CONN_HEALTH_CHECKS
    PG_ATOMIC=1       ATOMIC_REQUESTS
    PG_POOL=1         OPTIONS["pool"]: psycopg's own pool (Django 5.1)
    PG_SECOND=1       a second alias to the same database
    MIDDLEWARE_SET    none, four (security, common, csrf, clickjacking) or seven (as `startproject` has it)
    PG_URLS           the urls (project.urls by default)
    MIDDLEWARE_EXTRA  names of classes or functions in project.middleware, comma separated, put behind the set
"""

import os

MIDDLEWARE_SETS = {
    "none": [],
    "four": [
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    "seven": [
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
}

env = os.environ.get

SECRET_KEY = "a test's key, of no value"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = env("PG_URLS", "project.urls")
ASGI_APPLICATION = "project.asgi.application"
WSGI_APPLICATION = "project.wsgi.application"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.messages", "shop"]
MIDDLEWARE = [
    *MIDDLEWARE_SETS[env("MIDDLEWARE_SET", "none")],
    *(f"project.middleware.{name}" for name in env("MIDDLEWARE_EXTRA", "").split(",") if name),
]

TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": env("PG_HOST", "127.0.0.1"),
        "PORT": env("PG_PORT", "5432"),
        "USER": env("PG_USER", "postgres"),
        "NAME": env("PG_NAME", "postgres"),
        "CONN_MAX_AGE": None if env("PG_MAX_AGE") == "none" else int(env("PG_MAX_AGE", "0")),
        "CONN_HEALTH_CHECKS": env("PG_HEALTH") == "1",
        "ATOMIC_REQUESTS": env("PG_ATOMIC") == "1",
        "OPTIONS": {"application_name": env("PG_APP", "pg_project")},
    }
}
if env("PG_POOL") == "1":
    DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 8, "timeout": 20}
if env("PG_SECOND") == "1":
    DATABASES["second"] = {**DATABASES["default"], "OPTIONS": {"application_name": env("PG_APP", "pg_project") + " second"}}

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}

"""WSGI frameworks behind the standard library's validator."""

from wsgiref.validate import validator

import bottle_app
import flask_app
import wsgi_django

flask = validator(flask_app.flask)
bottle = validator(bottle_app.app)
django = validator(wsgi_django.application)

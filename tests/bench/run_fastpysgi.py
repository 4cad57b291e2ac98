"""Starts fastpysgi, which has no command line for ASGI applications of this form: run_fastpysgi.py module:attribute port."""

import importlib
import sys

import fastpysgi

module, attribute = sys.argv[1].split(":")
application = getattr(importlib.import_module(module), attribute)
fastpysgi.run(application, host="127.0.0.1", port=int(sys.argv[2]), loglevel=3)

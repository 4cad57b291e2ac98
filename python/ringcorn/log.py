"""The server's words on the Python side, and Python's logging.

Loggers are ``ringcorn.error`` and ``ringcorn.access``, so that a logging configuration can address them. ``Handler`` writes records as the
server writes its own lines, in one order with them; ``RequestIdFilter`` gives every record the id of the request it belongs to.
"""

import contextvars
import json
import logging
import logging.config
import traceback

import _ringcorn
from _ringcorn import ClientDisconnected

error = logging.getLogger("ringcorn.error")
access = logging.getLogger("ringcorn.access")

# Of the request that runs; None outside of requests, and where request_id.enabled is off.
request_id = contextvars.ContextVar("ringcorn_request_id", default=None)


class RequestIdFilter(logging.Filter):
    """Sets ``record.request_id``, "-" where there is none: for handlers whose format has ``%(request_id)s``."""

    def filter(self, record):
        if getattr(record, "request_id", None) is None:
            record.request_id = request_id.get() or "-"
        return True


class Handler(logging.Handler):
    """To the server's error log, in its form (log.format). With a formatter, what that makes is the message.

    ``record.ringcorn``, a dict that JSON can have: more members of the object that a line is under log.format json."""

    def emit(self, record):
        try:
            exception = None
            if self.formatter is not None:
                message = self.format(record)
            else:
                message = record.getMessage()
                if record.exc_info and record.exc_info[0] is not None:
                    exception = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
                elif record.exc_text:
                    exception = record.exc_text
                if record.stack_info:
                    exception = record.stack_info if exception is None else f"{exception}\n{record.stack_info}"
            its_id = getattr(record, "request_id", None) or request_id.get()
            members = getattr(record, "ringcorn", None)
            members = None if members is None else json.dumps(members)[1:-1]
            _ringcorn._log(record.levelname.lower(), record.name, message, None if its_id == "-" else its_id, exception, members)
        except Exception:
            self.handleError(record)


class ConfigError(Exception):
    """log.config cannot be used; the message says why."""


def setup(level, config=None):
    """Gives the server's loggers their handler, then applies *config*, the path of a file. *level*: a name of ``logging``, in any case."""
    logging.getLogger("ringcorn").setLevel(level.upper())
    ours = Handler()
    error.addHandler(ours)
    error.propagate = access.propagate = False
    if config is None:
        return
    _configure(config)
    # What the file says of "ringcorn" holds for "ringcorn.error" too, unless it names that.
    if ours in error.handlers and logging.getLogger("ringcorn").handlers:
        error.removeHandler(ours)
        error.propagate = True
        access.propagate = True


def access_handlers():
    """Whether somebody wants lines of the access log as records."""
    return bool(access.handlers) or (access.propagate and bool(logging.getLogger("ringcorn").handlers))


def access_line(line):
    """One line of the access log. Called by the C side."""
    access.disabled = False
    access.info("%s", line)


def _configure(path):
    """As uvicorn's --log-config: JSON and YAML by their endings, anything else is INI."""
    try:
        if path.endswith(".json"):
            with open(path, encoding="utf-8") as f:
                logging.config.dictConfig(json.load(f))
        elif path.endswith((".yaml", ".yml")):
            try:
                import yaml
            except ImportError:
                raise ConfigError("YAML needs PyYAML in the application's environment: pip install pyyaml, or write it as JSON") from None
            with open(path, encoding="utf-8") as f:
                logging.config.dictConfig(yaml.safe_load(f))
        else:
            logging.config.fileConfig(path, disable_existing_loggers=False)
    except ConfigError:
        raise
    except Exception as e:  # of all kinds: the file's syntax, names that are none, what handlers' classes raise
        why = " ".join(str(e).split()) or type(e).__name__
        raise ConfigError(why if e.__cause__ is None else f"{why}: {e.__cause__}") from None


def set_level(level):
    """ringcornctl log-level. *level*: 0 = debug to 3 = error, as the C side counts."""
    logging.getLogger("ringcorn").setLevel((logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)[level])


def _enabled():
    # logging.config.dictConfig(), which Django calls, disables the loggers that exist already and are not in it.
    error.disabled = False
    return error


def is_disconnect(exception, seen=()):
    """Whether it only says that the client left: ours, raised by send(), or a framework's made of it or of http.disconnect.

    seen: the identities of those that led to it. `raise e from e` makes a ring, `raise group.exceptions[0]` while the group is handled too."""
    seen = set(seen)
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        if isinstance(exception, ClientDisconnected) or type(exception).__name__ == "ClientDisconnect":
            return True
        if type(exception) is RuntimeError and exception.args == ("No response returned.",):
            return True  # Starlette's BaseHTTPMiddleware, of what was cancelled behind it
        if isinstance(exception, BaseExceptionGroup):  # of a task group that a middleware or a stream runs in
            return all(is_disconnect(e, seen) for e in exception.exceptions)
        exception = exception.__cause__ or exception.__context__
    return False


def was_cancelled(exception):
    """Why the server has cancelled the query that *exception* was made of (ringcorn.drivers): "gone", "overdue", "leaving"; or None."""
    seen = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        if (why := getattr(exception, "ringcorn_cancelled", None)) is not None:
            return why
        exception = exception.__cause__
    return None


def request_failed(label, exception, what, client_is_gone, its_id=None):
    """One error of one request, with its traceback. *label*: "GET /path". Called by the C side."""
    extra = {"request_id": its_id} if its_id else None
    if exception is None:
        _enabled().error("%s: %s", label, what, extra=extra)
    elif client_is_gone and is_disconnect(exception):
        _enabled().debug("%s: the client has gone", label, extra=extra)
    elif was_cancelled(exception) is not None:
        _enabled().debug("%s: its query was cancelled", label, extra=extra)
    else:
        _enabled().error("%s: %s", label, what, exc_info=exception, extra=extra)


def failed(text, *args):
    _enabled().error(text, *args)


def __getattr__(name):
    if name in ("debug", "info", "warning"):
        return getattr(_enabled(), name)
    raise AttributeError(name)

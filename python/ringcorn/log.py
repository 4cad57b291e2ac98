"""The server's words on the Python side, in the form of the lines that the C side writes.

Loggers are ``ringcorn.error`` and ``ringcorn.access``, so that a logging configuration can address them.
"""

import logging
import sys

from _ringcorn import ClientDisconnected

error = logging.getLogger("ringcorn.error")


class _Formatter(logging.Formatter):
    default_time_format = "%Y-%m-%d %H:%M:%S %z"
    default_msec_format = None

    def __init__(self):
        super().__init__("%(asctime)s [%(process)d] %(level)s: %(message)s")

    def format(self, record):
        record.level = record.levelname.lower()
        return super().format(record)


def setup(level):
    """Gives the loggers a handler on standard error. *level*: a name of ``logging``, in any case."""
    logger = logging.getLogger("ringcorn")
    logger.setLevel(level.upper())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logger.addHandler(handler)
    logger.propagate = False


def set_level(level):
    """ringcornctl log-level. *level*: 0 = debug to 3 = error, as the C side counts."""
    logging.getLogger("ringcorn").setLevel((logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)[level])


def _enabled():
    # logging.config.dictConfig(), which Django calls, disables the loggers that exist already and are not in it.
    error.disabled = False
    return error


def _is_disconnect(exception):
    """Whether it only says that the client left: ours, raised by send(), or a framework's made of it or of http.disconnect."""
    seen = set()
    while exception is not None and id(exception) not in seen:  # `raise e from e` makes a ring
        seen.add(id(exception))
        if isinstance(exception, ClientDisconnected) or type(exception).__name__ == "ClientDisconnect":
            return True
        if isinstance(exception, BaseExceptionGroup):  # of a task group that a middleware or a stream runs in
            return all(map(_is_disconnect, exception.exceptions))
        exception = exception.__cause__ or exception.__context__
    return False


def request_failed(label, exception, what, client_is_gone):
    """One error of one request, with its traceback. *label*: "GET /path". Called by the C side."""
    if exception is None:
        _enabled().error("%s: %s", label, what)
    elif client_is_gone and _is_disconnect(exception):
        _enabled().debug("%s: the client has gone", label)
    else:
        _enabled().error("%s: %s", label, what, exc_info=exception)


def failed(text, *args):
    _enabled().error(text, *args)


def __getattr__(name):
    if name in ("debug", "info", "warning"):
        return getattr(_enabled(), name)
    raise AttributeError(name)

"""Requests that were given up, and whose query the server has cancelled: to Django their view has failed, and it would log the traceback as an error
and mail it to ADMINS, for every client that leaves. The server has said what it has done, so Django's line is not written."""

import logging

from .. import log


class _Quiet(logging.Filter):
    def filter(self, record):
        exception = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        return exception is None or log.was_cancelled(exception) is None


def install():
    logger = logging.getLogger("django.request")
    if not any(isinstance(one, _Quiet) for one in logger.filters):
        logger.addFilter(_Quiet())

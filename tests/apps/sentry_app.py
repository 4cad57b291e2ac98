"""An application that Sentry watches: its SDK is set up by hooks.post_fork, in each worker."""

import os

import sentry_sdk
import sentry_sdk.integrations.logging
from starlette.applications import Starlette
from starlette.routing import Route


def start(worker):
    sentry_sdk.init(dsn=os.environ["SENTRY_DSN"], default_integrations=True)
    # The framework's integration sees what fails in requests; the server's line about it would be the same once more.
    sentry_sdk.integrations.logging.ignore_logger("ringcorn.error")
    sentry_sdk.set_tag("worker", str(worker.slot))


def end(worker):
    sentry_sdk.flush(timeout=2)


async def fail(request):
    return 1 / 0


app = Starlette(routes=[Route("/fail", fail)])

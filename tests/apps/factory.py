"""Applications made by calling something."""

from raw import app as raw_app


def make():
    return raw_app


class Holder:
    """An attribute of an attribute."""

    app = staticmethod(raw_app)


holder = Holder()


class Application:
    """An instance with an async __call__."""

    async def __call__(self, scope, receive, send):
        await raw_app(scope, receive, send)


instance = Application()

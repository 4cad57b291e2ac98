"""Ringcorn: an application server for Python web applications that runs on a ring.

This package is the server's Python part. Its event loop can be used alone:

    import ringcorn.loop
    loop = ringcorn.loop.new_event_loop()

and the server can be started from a script, in whose place it then runs:

    import ringcorn
    if __name__ == "__main__":
        ringcorn.run("main:app", host="0.0.0.0", port=8000, workers=4)
"""


def run(app, **options):
    """Serves *app*, "module:attribute"; does not return. *options* are those of the command line, by uvicorn's names too."""
    from .launch import run

    run(app, **options)


def timeout(seconds):
    """A decorator of views and endpoints, synchronous or not: such a request has *seconds*, from its head to its answer's end, in place of
    timeouts.request (None: as long as it likes). Then its client gets 504, its task is cancelled, and what its threads run in a database."""
    from .deadline import timeout

    return timeout(seconds)

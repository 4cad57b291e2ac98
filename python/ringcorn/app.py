"""Finding and importing the application that ``module:attribute`` names."""

import difflib
import importlib
import inspect
import traceback

EXIT_APP = 3  # an exception at import or start
EXIT_NOT_FOUND = 4  # module or attribute not found
EXIT_USAGE = 2


class AppError(Exception):
    """The application cannot be served: a line for the operator, and the exit code that goes with it."""

    def __init__(self, code, message, show=None):
        super().__init__(message)
        self.code = code
        self.show = show  # an exception whose traceback helps, or None


def _without_our_frames(exception):
    """The traceback as the operator needs it: it begins in the application's code."""
    frames = exception.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename in (__file__, importlib.__file__):
        frames = frames.tb_next
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        frames = frames.tb_next
    return exception.with_traceback(frames or exception.__traceback__)


def import_module(name, where):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is not None and (name == e.name or name.startswith(e.name + ".")):
            raise AppError(
                EXIT_NOT_FOUND,
                f"module {e.name!r} was not found; looked in {where} and in Python's path; "
                "check the spelling, --app-dir and --venv",
            ) from None
        raise AppError(EXIT_APP, f"importing {name!r} failed: {e}", _without_our_frames(e)) from None
    except BaseException as e:  # sys.exit() and whatever else it raises; Ctrl-C is the master's and does not come here
        why = traceback.format_exception_only(e)[-1].strip()
        raise AppError(EXIT_APP, f"importing {name!r} failed: {why}", _without_our_frames(e)) from None


def _attribute(module, path):
    value = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            near = difflib.get_close_matches(name, [n for n in dir(value) if not n.startswith("_")], 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AppError(EXIT_NOT_FOUND, f"module {module.__name__!r} has no attribute {path!r}{hint}") from None
    return value


def _takes(app, n):
    """Whether app can be called with n positional arguments; None where Python cannot tell."""
    try:
        inspect.signature(app).bind(*[None] * n)
    except TypeError:
        return False
    except ValueError:
        return None
    return True


def _check(app, spec):
    if not callable(app):
        raise AppError(EXIT_APP, f"{spec} is not callable but {type(app).__name__!r}; name an ASGI application")
    if _takes(app, 3) is not False:
        return
    if _takes(app, 2):
        raise AppError(
            EXIT_APP,
            f"{spec} looks like a WSGI application, but only ASGI is served: for Django name asgi:application, "
            "elsewhere wrap it in asgiref.wsgi.WsgiToAsgi",
        )
    if _takes(app, 0):
        raise AppError(EXIT_APP, f"{spec} looks like a factory: add --factory or write {spec}()")
    raise AppError(EXIT_APP, f"{spec} does not take (scope, receive, send): only ASGI 3 applications are served")


async def as_coroutine(awaitable):
    """For the C side: what an application returned that a task does not take as it is."""
    return await awaitable


def load(spec, factory, where):
    """Imports and returns the application. *spec*: "module:attribute" or "module:factory()". Raises AppError."""
    name, _, attribute = spec.partition(":")
    if attribute.endswith("()"):
        attribute, factory = attribute[:-2], True
    if not name or not attribute:
        hint = f"; try {name or 'module'}:app" if not attribute else ""
        raise AppError(EXIT_USAGE, f"application {spec!r} is not of the form module:attribute{hint}")
    if name.endswith(".py") or "/" in name:
        module = name.removesuffix(".py").strip("./").replace("/", ".")
        raise AppError(EXIT_USAGE, f"application {spec!r} names a file; name the module: {module}:{attribute}")
    app = _attribute(import_module(name, where), attribute)
    if factory:
        if not callable(app):
            raise AppError(EXIT_APP, f"{spec} is not callable, so it is no factory")
        try:
            app = app()
        except BaseException as e:
            why = traceback.format_exception_only(e)[-1].strip()
            raise AppError(EXIT_APP, f"the factory {spec} failed: {why}", _without_our_frames(e)) from None
    _check(app, spec)
    return app

"""Finding and importing the application that ``module:attribute`` names, and how it wants to be called."""

import difflib
import functools
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


def function_named(spec, where, key):
    """The function that *spec*, "module:function", names; *key*: of the configuration, for messages. Raises AppError."""
    name, _, attribute = spec.partition(":")
    try:
        function = _attribute(import_module(name, where), attribute)
    except AppError as e:
        raise AppError(e.code, f"{key}: {spec}: {e}", e.show) from None
    if not callable(function):
        raise AppError(EXIT_APP, f"{key}: {spec} is not callable but {type(function).__name__!r}; name a function")
    return function


# --- what calls it: WSGI or ASGI

_DEPTH = 8  # wrappers looked into

# Where an object keeps the application that it wraps, and what first parameters are called.
_INNER = ("app", "application", "wsgi_app", "asgi_app", "wrapped", "wrapped_app", "inner", "_app", "_application", "__wrapped__")
_WSGI_NAMES = {"environ", "env", "start_response", "wsgi_environ"}
_ASGI_NAMES = {"scope", "receive", "send"}


def _signature(app):
    """None where Python cannot tell, as for many callables that are written in C."""
    try:
        return inspect.signature(app)
    except (TypeError, ValueError):
        return None


def _takes(signature, n):
    """Whether a call with n positional arguments fits; None = unknown."""
    if signature is None:
        return None
    try:
        signature.bind(*[None] * n)
    except TypeError:
        return False
    return True


def _is_async(app):
    """Whether calling it gives a coroutine. A class gives its object, whatever that can do."""
    if inspect.iscoroutinefunction(app):
        return True
    return not inspect.isclass(app) and inspect.iscoroutinefunction(inspect.unwrap(getattr(type(app), "__call__", None)))


def _by_names(signature):
    """By what the first two parameters are called; None where that says nothing."""
    names = {p.name for p in list(signature.parameters.values())[:2] if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)}
    wsgi, asgi = names & _WSGI_NAMES, names & _ASGI_NAMES
    if bool(wsgi) == bool(asgi):
        return None
    return "wsgi" if wsgi else "asgi"


def _inner(app):
    """What it may wrap: attributes, the arguments of a partial, what a function's closure holds."""
    if isinstance(app, functools.partial):
        yield from (app.func, *app.args, *app.keywords.values())
    for name in _INNER:
        inner = getattr(app, name, None)
        if callable(inner):
            yield inner
    for cell in getattr(app, "__closure__", None) or ():
        try:
            inner = cell.cell_contents
        except ValueError:  # not bound yet
            continue
        if callable(inner):
            yield inner


def _detect(app, depth=0, seen=()):
    """"wsgi", "asgi", "asgi2" (one argument first, two for what that returns), or None where it cannot be told."""
    signature = _signature(app)
    two, three = _takes(signature, 2), _takes(signature, 3)
    if three and not two:
        return "asgi"
    if _is_async(app):
        if three or two is None:
            return "asgi"
        return "asgi2" if two is False and _takes(signature, 1) else None
    if two and not three:
        return "wsgi"
    if two is False:
        return "asgi2" if depth == 0 and _takes(signature, 1) and not _takes(signature, 0) else None
    if signature is not None and (named := _by_names(signature)):
        return named
    if depth < _DEPTH:
        found = {_detect(inner, depth + 1, (*seen, id(app))) for inner in _inner(app) if id(inner) not in seen and inner is not app}
        found.discard(None)
        if len(found) == 1:
            return found.pop()
    return None


def _interface(app, wanted, spec):
    """How *app* is to be called: "wsgi" or "asgi". *wanted*: these, or "auto". Raises AppError."""
    if not callable(app):
        raise AppError(EXIT_APP, f"{spec} is not callable but {type(app).__name__!r}; name a WSGI or ASGI application")
    found = _detect(app)
    signature = _signature(app)
    if found == "asgi2":
        raise AppError(
            EXIT_APP,
            f"{spec} looks like an ASGI 2 application, which is called twice: only ASGI 3, app(scope, receive, send), is served; "
            "wrap it in asgiref.compatibility.guarantee_single_callable",
        )
    if wanted == "auto":
        if found is not None:
            return found
        if _takes(signature, 2) is False:
            if _takes(signature, 0):
                raise AppError(EXIT_APP, f"{spec} looks like a factory: add --factory or write {spec}()")
            raise AppError(
                EXIT_APP, f"{spec} takes neither (environ, start_response), as WSGI, nor (scope, receive, send), as ASGI 3"
            )
        raise AppError(EXIT_APP, f"{spec} does not tell whether it is a WSGI or an ASGI application: add --interface wsgi or --interface asgi")
    if _takes(signature, 2 if wanted == "wsgi" else 3) is False or (wanted == "wsgi" and _is_async(app)):
        takes = "(environ, start_response)" if wanted == "wsgi" else "(scope, receive, send)"
        other = {"wsgi": "a WSGI", "asgi": "an ASGI"}.get(found)
        hint = f"it looks like {other} application: add --interface {found}, or leave the option out" if other else "name another application"
        raise AppError(EXIT_APP, f"{spec} cannot be called as --interface {wanted} says, with {takes}; {hint}")
    return wanted


async def as_coroutine(awaitable):
    """For the C side: what an application returned that a task does not take as it is."""
    return await awaitable


def load_by(options):
    """What the worker's options name: (application, "wsgi" or "asgi"). Raises AppError."""
    for name in options["import_first"]:
        import_module(name, options["app_dir"])
    app, interface = load(options["app"], options["factory"], options["app_dir"], options["interface"])
    if interface == "wsgi" and options["lifespan"] == "on":
        raise AppError(
            EXIT_USAGE, "lifespan: on needs an ASGI application, and this one is WSGI, which has no lifespan; leave it at auto"
        )
    return app, interface


def load(spec, factory, where, interface="auto"):
    """Imports the application: (application, "wsgi" or "asgi"). *spec*: "module:attribute" or "module:factory()". Raises AppError."""
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
    return app, _interface(app, interface, spec)

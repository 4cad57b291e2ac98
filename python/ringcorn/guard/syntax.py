"""What surrounds a line in its source: the `try` and `with` statements of its function.

Answers are kept, and no tree of a source: one of a thousand lines has ten thousand objects, which would stay for good."""

import ast
import functools
import linecache

from . import allow

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_BLOCKS = (ast.Try, ast.TryStar, ast.With, ast.AsyncWith)
_CANCELS = {"CancelledError", "BaseException"}
# Where a statement cleans up: after an exception in which of its parts.
_CLEANS = {"handlers": ("body",), "finalbody": ("body", "handlers", "orelse"), "items": ("body", "items")}


_kept = functools.lru_cache(maxsize=1024)


def _tree(file):
    try:
        with allow("block"):  # it takes a moment
            return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError):
        return None


def _children(node):
    """(field, child), where the child knows its lines."""
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if hasattr(child, "end_lineno"):
                yield field, child
            elif isinstance(child, ast.AST):  # an item of `with`, a case of `match`
                for _, inner in _children(child):
                    yield field, inner


def _around(node, line):
    """[(statement, the field of it that has the line)] below *node*, outermost first."""
    path = []
    while node is not None:
        field, inner = next(((f, c) for f, c in _children(node) if c.lineno <= line <= c.end_lineno), (None, None))
        if isinstance(node, _BLOCKS):
            path.append((node, field or "items"))  # the end of a `with` over several lines is at its first
        if isinstance(inner, _FUNCTIONS):
            path = []
        node = inner
    return path


@_kept
def has_cleanup(file, line):
    """Whether something is left to do where the function ends at this line."""
    return any(field in ("body", "handlers", "finalbody") for _, field in _around(_tree(file), line))


@_kept
def is_cleaning(file, before, now):
    """Whether line *now* is in what cleans up after an exception at line *before*: `except`, `finally`, the end of a `with`."""
    tree = _tree(file)
    fields = dict(_around(tree, before))
    return any(fields.get(node) in _CLEANS.get(field, ()) for node, field in _around(tree, now))


@_kept
def swallows(file, line):
    """The line that keeps a CancelledError raised at *line* inside the function; None where there is none to be seen."""
    for node, field in reversed(_around(_tree(file), line)):
        if field != "body":
            continue
        if isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                call = item.context_expr
                if isinstance(call, ast.Call) and _last_name(call.func) == "suppress" and any(_last_name(arg) in _CANCELS for arg in call.args):
                    return node.lineno
            continue
        for handler in node.handlers:
            if _catches(handler.type) and not isinstance(handler.body[-1], ast.Raise):
                return handler.lineno
        for statement in node.finalbody:
            if isinstance(statement, (ast.Return, ast.Break, ast.Continue)):
                return statement.lineno
    return None


def _last_name(node):
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _catches(type_):
    if type_ is None:
        return True
    return any(_last_name(one) in _CANCELS for one in (type_.elts if isinstance(type_, ast.Tuple) else [type_]))

"""Whether a function is the one in its module's file: monitoring agents and helpers of tests put others in their place.

What replaces a function of Django expects to be called as Django calls it, so where one is replaced Django's own path is taken.
"""

import functools
import sys
import types


@functools.cache
def _codes(module_name):
    """Qualified name -> code object, of every function that the module's file defines; empty where there is no file to look at."""
    try:
        code = sys.modules[module_name].__spec__.loader.get_code(module_name)
    except (AttributeError, ImportError, OSError, SyntaxError):
        code = None
    found, left = {}, [code] if code is not None else []
    while left:
        for constant in left.pop().co_consts:
            if isinstance(constant, types.CodeType):
                found[constant.co_qualname] = constant
                left.append(constant)
    return found


def is_genuine(function, module_name, qualname):
    """Whether *function* (also a method, a classmethod) is what the file of *module_name* defines under *qualname*."""
    function = getattr(function, "__func__", function)
    return (
        isinstance(function, types.FunctionType)
        and function.__globals__ is vars(sys.modules[module_name])
        and function.__code__ == _codes(module_name).get(qualname)
    )


def replaced(cls):
    """What of *cls*, its bases left out, is not as its file has it: a line for the operator, or None."""
    known = {name for qualname in _codes(cls.__module__) if (name := qualname.removeprefix(f"{cls.__qualname__}.")) != qualname and "." not in name}
    if not known:
        return f"the file of {cls.__module__} cannot be read"
    functions = {name for name, value in vars(cls).items() if isinstance(getattr(value, "__func__", value), types.FunctionType)}
    for name in sorted(known | functions):
        value = vars(cls).get(name)
        is_property = hasattr(value, "__get__") and not callable(value) and not hasattr(value, "__func__")
        if not is_property and not is_genuine(value, cls.__module__, f"{cls.__qualname__}.{name}"):
            by = getattr(value, "__globals__", {}).get("__name__") or type(value).__module__
            return f"{cls.__qualname__}.{name} has been replaced (by {by})"
    return None


def defines(cls, name, owner):
    """Whether *cls* takes the method *name* from the class *owner*, and *owner* has it as in its file."""
    function = getattr(cls, name, None)
    return function is not None and function is vars(owner).get(name) and is_genuine(function, owner.__module__, f"{owner.__qualname__}.{name}")

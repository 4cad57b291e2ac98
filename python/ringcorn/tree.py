"""The tasks of a loop as a tree: requests, their tasks, what each waits for, and the task groups in between.

asyncio notes who waits for a task among its done callbacks (a TaskGroup, a gather(), the task that awaits it), AnyIO likewise, and CPython from 3.14
on in its call graph, which has the last word. Called on any thread that has the GIL, also while the loop turns: nothing is changed, and what
comes or goes meanwhile may be in the tree or not.
"""

import asyncio
import contextvars
import functools
import gc
import itertools
import os
import threading
import types

from . import places

TASKS_MAX = 5000  # so many are told within a second or two; of the rest it is said how many they are
DEPTH_MAX = 50  # of tasks below tasks; JSON is nested twice as deep
STACK_MAX = 100
HOPS_MAX = 8  # from a task over futures to the task that waits for it

# Whose function it is that a future calls when it is done.
_CALLS = {"_release_waiter": "asyncio.wait_for()", "_wait": "asyncio.wait()"}
_ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep
_ANYIO = f"-packages{os.sep}anyio{os.sep}"


def context_of(task):
    """Before 3.12 a task does not tell it, but the collector knows: of what it refers to, its context comes first."""
    if hasattr(task, "get_context"):
        return task.get_context()
    return next((one for one in gc.get_referents(task) if type(one) is contextvars.Context), None)


# --- who waits for a task


def _is_task(one):
    return isinstance(one, asyncio.Task)


def _group_of(one):
    """(name, its task) of an object that is a task group of asyncio or AnyIO."""
    module = type(one).__module__.partition(".")[0]
    if module == "asyncio":
        return "asyncio.TaskGroup", getattr(one, "_parent_task", None)
    scope = getattr(one, "cancel_scope", None) if module == "anyio" else None
    return "anyio.TaskGroup", getattr(scope, "_host_task", None)


def _cells(function):
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not yet filled in
            continue


def _about(callback):
    """Whom a done callback will tell: (how, a future or a task group, the task), the task None where it is that of whoever waits for the future."""
    function = callback.func if isinstance(callback, functools.partial) else callback
    if not isinstance(function, types.FunctionType):
        about, name = (getattr(callback, "__self__", None),), None
    elif function.__module__.partition(".")[0] not in ("asyncio", "anyio"):
        return  # what an application's own function refers to says nothing
    else:
        about, name = (_cells(function) if function is callback else callback.args), function.__qualname__.partition(".")[0]
    for one in about:
        if isinstance(one, asyncio.Future):
            how = "await" if name is None else _CALLS.get(name, f"asyncio.{name}()")
            yield how, one, one if _is_task(one) else None
        elif type(one).__name__ == "TaskGroup":
            how, task = _group_of(one)
            if task is not None:
                yield how, one, task


def _by_callbacks(future, seen):
    """As awaiter()."""
    seen.append(future)
    for callback, _ in getattr(future, "_callbacks", None) or ():
        for how, one, task in _about(callback):
            if task is None and one not in seen and len(seen) < HOPS_MAX:
                found = _by_callbacks(one, seen)
                task = None if found is None else found[2]
            if task is not None and task not in seen:
                return how, one, task
    return None


def _by_call_graph(future):
    """The task that waits for it, by CPython's own call graph (asyncio.future_add_to_awaited_by()), which has no names; before 3.14 there is none."""
    for _ in range(HOPS_MAX):
        future = next(iter(getattr(future, "_asyncio_awaited_by", None) or ()), None)
        if future is None or _is_task(future):
            break
    return future if _is_task(future) else None


def awaiter(task):
    """Who waits for *task*: (how, by what object, which task), as ("asyncio.TaskGroup", the group, its parent); None: nobody."""
    found, known = _by_callbacks(task, []), _by_call_graph(task)
    return found if known is None or (found is not None and found[2] is known) else ("await", known, known)


# --- what a task waits for


def _library(file):
    """ "asyncio" or "anyio", where *file* is of them."""
    return "asyncio" if file.startswith(_ASYNCIO) else "anyio" if _ANYIO in file else None


def _named(task):
    return f"task {task.get_name()!r}"


def _detail(frame, loop):
    """More of the innermost frame, where it is one of those that are known: how long it sleeps, whom it waits for."""
    name = frame.f_code.co_qualname
    if name == "sleep" and (timer := frame.f_locals.get("h")) is not None:
        return f", {max(0.0, timer.when() - loop.time()):.1f} s left"
    holder = getattr(frame.f_locals.get("self"), "_owner_task", None) if name.endswith(".acquire") else None
    return f", which {_named(holder)} holds" if _is_task(holder) else ""


def waits_for(task, frames, awaited, loop):
    """What the application has called: "asyncio.sleep(), 0.8 s left"; or what it awaits: "task 'x'", "asyncio.gather()"."""
    called = []  # the library's frames at the end, outermost first
    for frame, _ in reversed(frames):
        if (library := _library(frame.f_code.co_filename)) is None:
            break
        name = frame.f_code.co_qualname
        of = name.removesuffix(".__aexit__").removesuffix(".__aenter__")
        called.insert(0, f"{library}.{of}" + "()" * (of == name))
    if called:
        public = (call for call in called if "._" not in call)
        return next(public, called[-1]) + _detail(frames[-1][0], loop)
    future = getattr(task, "_fut_waiter", None)
    if _is_task(future):
        return _named(future)
    if (children := getattr(future, "_children", None)) is not None:
        return f"asyncio.gather(), {sum(not child.done() for child in children)} of {len(children)} left"
    known = {"_ringcorn._Wait": "the client", "_ringcorn.Job": "a thread"}.get(f"{type(awaited).__module__}.{type(awaited).__qualname__}")
    return known or ("a future" if future is not None else None if awaited is None else f"a {type(awaited).__qualname__}")


# --- the tree


def _is_wrapper(code):
    return _library(code.co_filename) is not None or places.is_own(code.co_filename)


def told(loop, variables, requests):
    """[{"request", "state", "age_s", "tasks"}], see _Tree."""
    return _Tree(loop, variables, requests).told()


class _Tree:
    def __init__(self, loop, variables, requests):
        """variables: context variables of leases; requests: [(task or None, lease or None, label, age in seconds)]."""
        from .guard import request

        self.loop = loop
        self.cycle = request
        self.current = asyncio.current_task(loop)
        self.variables = variables
        self.own = {}  # the task of a request -> (label, age, its lease)
        self.by_lease = {}  # id of a lease -> the same
        for task, lease, label, age in requests:
            about = (label, age, lease)
            task = self.current if task is None else task  # in its first step
            if task is not None:
                self.own[task] = about
            if lease is not None:
                self.by_lease[id(lease)] = about
        every = asyncio.all_tasks(loop)
        self.left_out = max(0, len(every) - TASKS_MAX)
        names = {task: task.get_name() for task in itertools.islice(every, TASKS_MAX)}
        self.tasks = dict(sorted(names.items(), key=lambda one: (len(one[1]), one[1])))
        self.below = {}  # task -> {id of a group or future: (how, [tasks])}
        self.shown = set()

    def _by_context(self, task):
        """As self.own has it, of a task that a request has made, and the task whose own it is."""
        if (context := context_of(task)) is None:
            return None, task
        for var in self.variables:
            if (lease := context.get(var)) is not None and hasattr(lease, "label"):
                return self.by_lease.get(id(lease), (lease.label, None, lease)), task
        if (cycle := context.get(self.cycle)) is not None:
            owner = cycle.task or (None if cycle.is_ended else self.current)  # which is in its first step
            return self.own.get(owner, (cycle.label, None, cycle)), owner
        return None, task

    def _request(self, task):
        """(label, age or None, key) of a task that nobody waits for."""
        about = self.own.get(task)
        if about is None:
            about, task = self._by_context(task)
        if about is None:
            return None, None, None
        return about[0], about[1], id(about[2]) if about[2] is not None else id(task)

    def _about(self, task):
        coroutine = task.get_coro()
        is_running = task is self.current
        if is_running:
            frames, awaited = self._of_loop(coroutine), None
        else:
            frames, awaited = places.suspended(coroutine)
        wait = None if is_running else waits_for(task, frames, awaited, self.loop)
        first = next((frame.f_code for frame, _ in frames if not _is_wrapper(frame.f_code)), None)
        return {
            "name": task.get_name(),
            "coroutine": first.co_qualname if first is not None else getattr(coroutine, "__qualname__", type(coroutine).__qualname__),
            "state": "running" if is_running else "ready" if wait is None else "waiting",
            "waits_for": wait,
            "stack": [places.text(frame.f_code, line) for frame, line in frames[-STACK_MAX:]],
        }

    def _of_loop(self, coroutine):
        """The frames of the loop's thread from *coroutine* on; all, where it is not there."""
        frames = places.running(threading.main_thread().ident)
        root = getattr(coroutine, "cr_frame", None)
        start = next((i for i, (frame, _) in enumerate(frames) if frame is root), 0)
        return frames[start:]

    def _show(self, task, depth):
        self.shown.add(task)
        told = self._about(task)
        groups = []
        for how, below in self.below.get(task, {}).values() if depth < DEPTH_MAX else ():
            if tasks := [self._show(one, depth + 1) for one in below if one not in self.shown]:
                groups.append({"by": how, "tasks": tasks})
        told["groups"] = groups
        return told

    def told(self):
        roots = []
        for task in self.tasks:
            found = awaiter(task)
            if found is None or found[2] not in self.tasks or task in self.own:
                roots.append(task)
            else:
                how, by, parent = found
                self.below.setdefault(parent, {}).setdefault(id(by), (how, []))[1].append(task)
        requests = {}
        for task in roots:
            self._add(requests, task)
        for task in self.tasks:  # what is too deep, or waits for itself
            if task not in self.shown:
                self._add(requests, task)
        told = sorted(requests.values(), key=lambda r: (r["request"] is None, -(r["age_s"] or 0.0)))
        if self.left_out:
            told.append({"request": f"{self.left_out} tasks more", "state": "left out", "age_s": None, "tasks": []})
        return told

    def _add(self, requests, task):
        label, age, key = self._request(task)
        if key not in requests:
            state = None if label is None else "ended" if age is None else "in hand"
            requests[key] = {"request": label, "state": state, "age_s": age, "tasks": []}
        requests[key]["tasks"].append(self._show(task, 0))

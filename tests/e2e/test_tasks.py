"""ringcornctl tasks: requests, their tasks, the groups between them, and what each waits for in the end."""

import contextlib
import os
import subprocess
import sys

import harness
import pytest
import wire
from test_control import Control, controlled, ctl  # noqa: F401

APP = harness.APPS / "awaiting.py"


def line_of(word):
    [line] = [n for n, text in enumerate(APP.read_text().splitlines(), 1) if text.endswith(f"# {word}")]
    return f"{APP}:{line}"


@pytest.fixture
def waiting(controlled):  # noqa: F811
    """waiting(*paths) -> (server, path of the socket, {label: its part of the tree}): all of them are asked for, and wait."""
    clients, servers, stack = [], [], contextlib.ExitStack()

    def start(*paths, wait=True):
        s, path = controlled("awaiting:app")
        servers.append(s)
        for one in paths:
            client = stack.enter_context(s.connect())
            if one != "client":  # that one is never answered
                clients.append(client)
            client.send(f"GET /{one} HTTP/1.1\r\nHost: a\r\n\r\n".encode())

        def told():
            with Control(path) as c:
                found = {r["request"]: r for r in c.ask("tasks")[0].get("tasks", ())}
            return found if {f"GET /{one}" for one in paths} <= found.keys() else None

        return s, path, wire.eventually(told, 10 * harness.SLOW, "the requests") if wait else None

    with stack:
        yield start
        for s in servers:
            with s.connect() as c:
                assert c.get("/finishes").status == 200
        for client in clients:
            assert client.response().status == 200


def of(tree, path):
    [task] = tree[f"GET /{path}"]["tasks"]
    return task


def below(task):
    """[(how, {name: task})]"""
    return [(group["by"], {one["name"]: one for one in group["tasks"]}) for group in task["groups"]]


def place(task, i=-1):
    return task["stack"][i].split()[0]


def test_each_way_to_wait(waiting):
    paths = (
        "in_groups", "in_nurseries", "locks", "waits", "times_out", "awaits", "shields", "sleeps", "leaves_behind", "on_thread", "client",
    )  # fmt: skip
    s, path, tree = waiting(*paths)
    task = of(tree, "in_groups")
    assert (task["coroutine"], task["state"], task["waits_for"]) == ("app", "waiting", "asyncio.TaskGroup")
    [(how, tasks)] = below(task)
    assert how == "asyncio.TaskGroup" and list(tasks) == ["a", "b", "c"]
    assert [line.split()[1] for line in tasks["a"]["stack"]] == ["middle", "leaf", "Event.wait"]
    assert (place(tasks["a"], 0), place(tasks["a"], 1)) == (line_of("middle"), line_of("leaf"))
    assert place(tasks["b"], 1) == line_of("ticks")  # through the asynchronous generator
    assert tasks["c"]["waits_for"] == "asyncio.gather(), 2 of 3 left" and place(tasks["c"]) == line_of("gathers")
    assert [(how, len(tasks)) for how, tasks in below(tasks["c"])] == [("asyncio.gather()", 2)]

    outer, inner = sorted(below(of(tree, "in_nurseries")), key=lambda group: len(group[1]))
    assert (outer[0], list(outer[1])) == ("anyio.TaskGroup", ["x"]) and outer[1]["x"]["coroutine"] == "middle"
    assert (inner[0], list(inner[1])) == ("anyio.TaskGroup", ["y1", "y2"])
    assert sorted(one["waits_for"] for one in inner[1].values())[0] == "anyio.Lock, which task 'y1' holds"

    for name, how, wait in (
        ("waits", "asyncio.wait()", "asyncio.wait()"),
        ("times_out", None, "asyncio.wait_for()"),  # its way has changed in 3.12
        ("awaits", "await", "task 'awaited'"),
        ("shields", "asyncio.shield()", "a future"),
    ):
        task = of(tree, name)
        [(by, tasks)] = below(task)
        assert task["waits_for"] == wait and by == (how or by), (name, task)
        [child] = tasks.values()
        assert place(child, 1) == line_of("leaf")
    assert {t["name"]: t["waits_for"] for t in tree["GET /locks"]["tasks"]} == {"/locks": "asyncio.Lock.acquire()", "holder": "asyncio.Event.wait()"}
    [sleep] = [t for t in tree["GET /sleeps"]["tasks"] if t["name"] == "sleep"]
    assert sleep["waits_for"].startswith("asyncio.sleep(), ") and 5 < float(sleep["waits_for"].split()[1]) <= 60
    assert of(tree, "on_thread")["waits_for"] == "asyncio.to_thread()"
    assert of(tree, "client")["waits_for"] == "the client"
    # Their request is over, and it is said whose they were.
    assert tree["GET /leaves_behind"]["state"] == "ended" and of(tree, "leaves_behind")["name"] == "left behind"
    assert tree["GET /awaits"]["state"] == "in hand" and tree["GET /awaits"]["age_s"] > 0
    assert [t["name"] for t in tree[None]["tasks"]] == ["ringcorn"]

    lines = ctl(path, "tasks").stdout.splitlines()
    assert lines[0] == f"worker 0, pid {s.workers()[0]}"
    at = lines.index("└─ app  task '/awaits'  waits for task 'awaited'")
    assert lines[at - 1].startswith("GET /awaits  ")
    assert lines[at + 2 : at + 6] == [
        f"   │  {line_of_call('awaits')} awaits",
        "   └─ await",
        "      └─ middle  task 'awaited'  waits for asyncio.Event.wait()",
        f"            {line_of('middle')} middle",
    ]


def line_of_call(name):
    lines = APP.read_text().splitlines()
    at = next(n for n, text in enumerate(lines, 1) if text.startswith(f"async def {name}("))
    return f"{APP}:{at + 1}"


def test_a_client_says_nothing_to_the_terminal(controlled):  # noqa: F811
    """The name of a task is the path, as the client has written it."""
    s, path = controlled("awaiting:app")
    with s.connect() as c:
        c.send(b"GET /client HTTP/1.1\r\nHost: a\r\n\r\n")
        with s.connect() as other:
            other.send(b"GET /%1b%5b31m%0aworker%209%7f%C2%9B%E2%80%A8/../client HTTP/1.1\r\nHost: a\r\n\r\n")
            told = wire.eventually(lambda: "31m" in (r := ctl(path, "tasks")).stdout and r, 10 * harness.SLOW, "both requests")
    assert "task '/?[31m worker 9???" in told.stdout and told.stderr == ""
    assert not set(told.stdout) & {"\x1b", "\x7f", "\x9b"}


def test_while_the_loop_is_blocked(waiting):
    _, _, tree = waiting("awaits", "blocks")
    task = of(tree, "blocks")
    assert task["state"] == "running" and place(task) == line_of("blocks")
    assert [line.split()[1] for line in task["stack"]] == ["app", "blocks"]
    assert of(tree, "awaits")["waits_for"] == "task 'awaited'"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="python -m asyncio pstree is of 3.14")
@pytest.mark.skipif(os.geteuid() != 0, reason="reading another process is for root here")
def test_cpythons_own_tool_sees_a_worker(waiting):
    """It reads the worker's memory, from outside."""
    s, _, _ = waiting("in_groups", "awaits")
    [pid] = s.workers()
    told = subprocess.run([sys.executable, "-m", "asyncio", "pstree", str(pid)], capture_output=True, text=True, timeout=60)
    if told.returncode != 0 and "ermission" in told.stderr:
        pytest.skip(f"a container may not: {told.stderr.splitlines()[-1]}")
    lines = [line.strip(" │├└─") for line in told.stdout.splitlines()]
    assert told.returncode == 0, told.stderr
    assert "(T) ringcorn" in lines and "(T) /awaits" in lines
    at = lines.index("(T) awaited")
    assert lines[at - 1] == f"awaits {line_of_call('awaits')}" and lines[at + 1] == f"middle {line_of('middle')}"
    at = lines.index("(T) a")
    assert lines[at - 1].startswith("TaskGroup._aexit ") and {"(T) b", "(T) c"} < set(lines)


def test_c_code_that_keeps_the_gil_is_said_to(waiting):
    s, path, _ = waiting("keeps_gil", wait=False)
    wire.eventually(lambda: "C code keeps the GIL" in (told := ctl(path, "tasks").stdout) and told, 30 * harness.SLOW, "an answer")

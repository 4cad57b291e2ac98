"""Libraries that live on asyncio, on the server's own loop: drivers, HTTP clients, streams, processes; against the real thing."""

import signal
import sys
import time
from pathlib import Path

import pytest

import harness


@pytest.fixture(scope="session")
def postgres(pg):
    return pg.dsn


@pytest.fixture
def s(server):
    s = server("clients:app", "--workers", "1", shared=True)
    s.allow_descriptors(6)  # resolver and executor threads come to stay
    return s


def call(s, path, **kwargs):
    r = s.get(path, timeout=90, **kwargs)
    assert r.status == 200, s.log
    return r.json()


# --- databases


def test_asyncpg(server, postgres):
    s = server("clients:app", env={"TEST_PG": postgres})
    s.allow_descriptors(4)
    got = call(s, "/asyncpg")
    assert got == {"rows": list(range(12)), "big": 2_000_000, "heard": "heard", "cancelled": True}


def test_psycopg(server, postgres):
    s = server("clients:app", env={"TEST_PG": postgres})
    s.allow_descriptors(4)
    got = call(s, "/psycopg")
    assert (got["total"], got["copied"], got["implementation"]) == (500_500, 12_502_500, "binary")


def test_psycopg2_in_a_thread(server, postgres):
    s = server("clients:app", env={"TEST_PG": postgres})
    s.allow_descriptors(4)
    assert call(s, "/psycopg2") == {"answer": 42}


def test_redis(server, redis_server):
    s = server("clients:app", env={"TEST_REDIS": redis_server.port})
    s.allow_descriptors(4)
    assert call(s, "/redis") == {"value": "value", "last": 99, "message": "published", "popped": None}


# --- HTTP clients, to ourselves


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
def test_http_client(s, library):
    got = call(s, f"/{library}?base={s.base}")
    assert got["statuses"] == [200] * 10 and got["posted"] == 300_000
    assert got.get("streamed", 20_000) == 20_000


# --- asyncio itself


def test_streams(s):
    assert call(s, "/streams") == {"tcp": ["HELLO\n", 200_001], "unix": ["HELLO\n", 200_001]}


def test_datagrams(s):
    assert call(s, "/datagram") == {"data": "datagram"}


def test_readers_and_writers(s):
    assert call(s, "/readers") == {"first": "ready", "second": "small"}


def test_structured_concurrency(s):
    assert call(s, "/structured") == {"order": [1, 2, 3], "timed_out": True, "later": None if False else "later", "from_thread": "threadsafe"}


def test_dns_in_a_thread(s):
    assert call(s, "/dns") == {"found": True}


def test_signal_handler_of_the_application(s):
    assert call(s, "/signals") == {"value": "signal"}


def test_request_is_a_task_of_the_loop(s):
    got = call(s, "/task")
    assert got["is_task"] and got["in_all_tasks"] and got["timeout"] and got["thread"]
    assert got["loop"].startswith("ringcorn")


def test_anyio(server):
    s = server("clients:app", "--threads", "7")
    s.allow_descriptors(4)
    assert call(s, "/anyio-thread") == {"value": "back", "cancelled": True, "limiter": 7}


def test_wheels_with_c_parts(s):
    assert call(s, "/wheels") == {"numpy": 45, "pydantic": 5, "psycopg2": True}


# --- processes


def test_subprocess(s):
    assert call(s, "/subprocess") == {"out": "SHOUT", "code": 5, "killed": -15, "codes": [0] * 5}


def test_child_holds_nothing_of_ours(s):
    """Descriptors are close-on-exec, all of them."""
    child = call(s, "/child-descriptors")["child"]
    assert "socket:" not in child and "io_uring" not in child and "eventpoll" not in child


def test_fork(s):
    """A forked child holds no ring, epoll, listener or connection of the server; the server goes on."""
    got = call(s, "/os-fork")
    assert got["status"] == 0
    assert not [d for d in got["child"] if "io_uring" in d or "eventpoll" in d or "socket:" in d], got
    assert s.get("/hello").status == 200


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pool(server, method):
    s = server("clients:app")
    s.allow_descriptors(8)
    got = call(s, f"/process-pool?method={method}")
    assert got == {"squares": [0, 1, 4, 9, 16, 25], "others": True}
    assert s.get("/hello").status == 200


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_queue(server, method):
    s = server("clients:app")
    s.allow_descriptors(10)
    if method == "forkserver":
        # The fork server is the application's, and ends with it.
        s.slack += 4
    assert call(s, f"/multiprocessing-queue?method={method}") == {"value": "from the child", "code": 0}


@pytest.mark.parametrize("where", ["thread", "loop"])
def test_signals_end_a_forked_child(server, where):
    """The worker's handlers are not the child's: Process.terminate() and Pool.terminate() wait for SIGTERM to do its work."""
    s = server("clients:app")
    s.allow_descriptors(10)
    numbers = [int(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    got = call(s, f"/terminate-process?method=fork&where={where}&signals={','.join(map(str, numbers))}")
    assert got["codes"] == [n for n in numbers for _ in range(2)]


def test_anyio_to_process(server):
    s = server("clients:app")
    s.allow_descriptors(12)
    s.check_live = False  # AnyIO keeps its worker processes, and their pipes, for the next call
    assert call(s, "/anyio-process") == {"squares": [9, 16]}


def test_executable_is_the_environments_python(s):
    got = call(s, "/process")
    assert Path(got["executable"]).resolve() == Path(sys.executable).resolve()
    assert got["prefix"] == sys.prefix and got["main"] == "__main__"
    assert got["argv"] and got["ppid"] == s.pid


# --- output


def test_print_and_logging_are_not_buffered(s):
    text = f"text-{time.monotonic_ns()}"
    assert s.get(f"/print?text={text}").status == 200
    assert s.out.wait(text, 3 * harness.SLOW), "print() is held back"
    s.wait_log(f"logged {text}", 3)
    s.wait_log(f"stderr {text}", 3)


def test_utf8_is_the_default(server):
    s = server("clients:app", env={"LC_ALL": "C", "LANG": None, "PYTHONUTF8": None, "PYTHONIOENCODING": None})
    got = call(s, "/process")
    assert got["stdout_encoding"].lower().replace("-", "") == "utf8"
    s.get("/print?text=%E2%98%83")
    assert s.out.wait("☃", 3 * harness.SLOW)

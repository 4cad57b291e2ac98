"""Leases below Django: its own path (one_hop off) and the server's."""

import pytest

import wire

PATHS = pytest.mark.parametrize("one_hop", ["auto", "off"])
ONE = ("--sync-threads", "1", "--sync-threads-max", "1")


def begin(server, target):
    c = server.connect()
    c.send(wire.request("GET", target))
    return c


def wait_state(server, condition, what):
    return wire.eventually(lambda: (s := server.get("/state").json()) and condition(s) and s, 10, what)


@PATHS
def test_one_thread_from_the_first_middleware_to_the_last(server, one_hop):
    s = server("leases_django:app", "--sync-threads", "2", "--django-one-hop", one_hop, shared=True)
    assert s.get("/open-gate?gate=open").status == 200
    connections = [begin(s, "/blocking?name=x&gate=open") for _ in range(10)]
    for c in connections:
        answer = c.response()
        assert (answer.status, answer.get("x-threads")) == (200, "1")
        c.close()
    wait_state(s, lambda now: now["leased"] == 0, "every thread is back")


@PATHS
@pytest.mark.parametrize("threads", ["1", "4"])
def test_nesting_and_streams(server, one_hop, threads):
    s = server("leases_django:app", "--sync-threads", threads, "--sync-threads-max", threads, "--django-one-hop", one_hop, shared=True)
    connections = [begin(s, "/nested") for _ in range(6)]
    for c in connections:
        assert c.response().json() == {"threads": 1, "calls": 4, "loops": ["ringcorn.loop"]}
        c.close()
    assert s.get("/stream").text.split() == ["True"] * 20
    wait_state(s, lambda now: now["leased"] == 0, "every thread is back")


@PATHS
@pytest.mark.parametrize("view", ["blocking", "async-blocking"])
@pytest.mark.parametrize("options", [("--sync-queue", "1"), ("--sync-queue-timeout", "300ms")], ids=["full", "timeout"])
def test_no_thread_is_503_and_no_error_page(server, one_hop, view, options):
    s = server("leases_django:app", *ONE, *options, "--django-one-hop", one_hop)
    s.expect_errors(r"GET /\S+: no thread was free, the answer is 503.*1 of 1 threads run; GET /blocking: ")
    holder = begin(s, "/blocking?name=holder&gate=g")
    wait_state(s, lambda now: now["started"] == ["holder"], "the holder has begun")
    waiting = []
    if "--sync-queue" in options:
        waiting.append(begin(s, "/blocking?name=waiting&gate=g"))
        wait_state(s, lambda now: now["queued"] == 1, "one waits")
    with s.connect() as c:
        for _ in range(2):
            answer = c.get(f"/{view}?name=refused&gate=g")
            assert (answer.status, answer.get("retry-after")) == (503, "1")
            assert answer.body == b"Service Unavailable\n"
    assert s.get("/open-gate?gate=g").status == 200
    for c in [holder, *waiting]:
        assert c.response().status == 200
        c.close()
    assert "refused" not in wait_state(s, lambda now: now["leased"] == 0, "every thread is back")["started"]

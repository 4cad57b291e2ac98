"""Clients that leave while the application neither reads nor sends: its tasks are cancelled after guard.disconnect_grace, once."""

import signal
import time

import pytest

import wire

UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


def leave(s, *paths, after=0.2):
    """Asks for each path, and leaves before the answer."""
    connections = [s.connect() for _ in paths]
    for c, path in zip(connections, paths):
        c.send(wire.request("GET", path))
    time.sleep(after)
    for c in connections:
        c.close()


def said(s, *names):
    return wire.eventually(lambda: (all_ := s.get("/said").json()) and all(name in all_ for name in names) and all_, 20, f"{names} have ended")


def test_who_neither_reads_nor_sends_is_cancelled_once_with_its_tree(server):
    s = server("leaving_clients:app", "--guard-disconnect-grace", "100ms")
    with s.connect() as c:
        c.send(wire.request("GET", "/answers"))
        assert c.response().status == 200
    with s.connect() as c:
        c.send(wire.request("GET", "/ws", UPGRADE))
        assert c.head().status == 101
    leave(s, "/waits", "/depends", "/tree", "/reads", "/allowed", "/thread")
    cancelled, others = ("waits", "depends", "tree", "branch", "group", "gathered", "ws"), ("reads", "allowed", "thread", "answers", "outlives")
    assert said(s, *cancelled, *others) == {**dict.fromkeys(cancelled, "CancelledError"), **dict.fromkeys(others, "went on")}


def test_cleanup_behind_middlewares_is_not_cut_off(server):
    s = server("leaving_clients:app", "--guard-disconnect-grace", "100ms", env={"MIDDLEWARE": "1"})
    leave(s, "/waits", "/depends")
    assert said(s, "waits", "depends") == {"waits": "CancelledError", "depends": "CancelledError"}


@pytest.mark.parametrize("middleware", ("", "1"))
def test_what_works_for_a_thread_of_anyio_stays(server, middleware):
    s = server("leaving_clients:app", "--guard-disconnect-grace", "100ms", "--anyio-threads", "stock", env={"MIDDLEWARE": middleware})
    leave(s, "/on_thread", "/waits")
    assert said(s, "on_thread", "waits") == {"on_thread": "went on", "waits": "CancelledError"}


def test_after_three_seconds_by_default_and_never_when_off(server):
    by_default = server("leaving_clients:app", env={"LONG": "60"})
    off = server("leaving_clients:app", "--guard-disconnect-grace", "off", env={"LONG": "4"})
    leave(off, "/waits")
    left = time.monotonic()
    leave(by_default, "/waits")
    assert said(by_default, "waits") == {"waits": "CancelledError"}
    assert time.monotonic() - left >= 3
    assert said(off, "waits") == {"waits": "went on"}


def test_worker_that_leaves_does_not_cancel_twice(server):
    """What was cancelled as its client left cleans up while the worker stops quickly."""
    s = server("leaving_clients:app", "--guard-disconnect-grace", "10ms")
    leave(s, "/waits")
    assert s.out.wait("waits cleans up", 20)
    s.stop(signal.SIGQUIT)
    assert s.out.wait("waits ended: CancelledError$", 20)

"""Applications that do what is legal and rare."""

import time

import pytest

import borders
import wire


@pytest.fixture
def s(server):
    return server("borders:app", shared=True)


def test_buffer_that_is_filled_anew_after_send(s):
    """What was sent is what it was then, although the client reads later."""
    with s.connect(rcvbuf=4096, timeout=30) as c:
        c.send("GET /refilled HTTP/1.0\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        body = c.rest().split(b"\r\n\r\n", 1)[1]
    assert body == b"".join(bytes([i]) * borders.CHUNK for i in range(borders.CHUNKS))


def test_readonly_view_of_a_megabyte(s):
    assert s.get("/readonly-view").body == bytes(range(256)) * 4096


def test_pairs_are_any_iterables(s):
    r = s.get("/list-pairs")
    assert (r.get("x-list"), r.get("x-tuple"), r.get("x-iterator")) == ("1", "2", "3")


def test_headers_that_change_while_they_are_read(s):
    r = s.get("/headers-change")
    assert (r.get("x-" + "a" * 100), r.get("x-" + "c" * 100), r.get("x-last")) == ("b" * 500, "d" * 500, "1")


def test_headers_that_start_the_response_themselves(s):
    r = s.get("/headers-start")
    assert r.status == 201 and r.get("x-inner") == "1" and b"already been started" in r.body


def test_message_that_changes_while_it_is_read(s):
    assert s.get("/event-changes").body == b"z" * 12000

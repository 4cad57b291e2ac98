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


def test_receive_and_send_are_coroutines_to_create_task(s):
    with s.connect() as c:
        c.send("POST /tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        time.sleep(0.1)
        c.send(b"0123456789")
        assert c.response().body == b"True 0123456789"


def test_threads_receive_and_send_by_way_of_the_loop(s):
    body = s.post("/thread", b"x" * 20).body
    assert body.startswith(b"x" * 20_000 * borders.CHUNKS)
    assert b"run_coroutine_threadsafe" in body[20_000 * borders.CHUNKS :]


def test_receive_of_a_task_that_outlives_its_request_says_disconnect(s):
    assert s.get("/late-receive").status == 200
    wire.eventually(lambda: s.get("/late").json().get("after return") == "http.disconnect")


def test_receive_after_an_early_answer_says_disconnect_at_once(s):
    """The client, told already, will never send the body that it has announced."""
    with s.connect() as c:
        c.send("POST /early-answer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert c.response().body == b"early"
        wire.eventually(lambda: s.get("/late").json().get("after answer") == "http.disconnect")


def test_request_whose_task_was_dropped_is_answered_although_the_loop_sleeps(s):
    """The collector finds it in another thread; the loop answers."""
    s.expect_errors("GET /lost")
    with s.connect(timeout=5) as c:
        c.send(wire.request("GET", "/lost"))
        assert s.get("/collector").status == 200
        assert c.response().status == 500
    s.wait_log("dropped while it was still waiting")


@pytest.mark.parametrize("name, body", [("Awaitable", b"awaited"), ("future", b"from a future")])
def test_application_is_any_callable_that_returns_an_awaitable(server, name, body):
    assert server(f"borders:{name}", "--lifespan", "off").get("/").body == body


def test_exception_that_is_its_own_cause_is_logged(s):
    s.expect_errors("GET /caused-by-itself")
    c = s.connect()
    c.send(wire.request("GET", "/caused-by-itself"))
    time.sleep(0.1)
    c.close()
    s.wait_log("ValueError: caused by itself")
    assert s.get("/late").status == 200

"""What an application may send, and what happens when it does otherwise: an exact exception for it, an answer for the client,
a line with traceback, method and path for the operator. Never a hang, never a broken response passed off as a whole one."""

import json

import pytest

import misbehave
import wire

# What send() refuses: the application gets the exception, and as nothing was sent yet the client gets 500.
REFUSED_500 = {
    "/body-first": "RuntimeError",
    "/not-a-dict": "TypeError",
    "/none": "TypeError",
    "/no-type": "(ValueError|KeyError)",
    "/type-not-str": "(ValueError|TypeError|RuntimeError)",
    "/unknown-type": "(ValueError|RuntimeError)",
    "/websocket-type": "(ValueError|RuntimeError)",
    "/no-status": "(TypeError|ValueError|KeyError)",
    "/status-str": "(TypeError|ValueError)",
    "/status-0": "ValueError",
    "/status-99": "ValueError",
    "/status-100": "ValueError",
    "/status-1000": "ValueError",
    "/status-huge": "ValueError",
    "/header-crlf": "ValueError",
    "/header-lf": "ValueError",
    "/header-nul": "ValueError",
    "/header-name-space": "ValueError",
    "/header-name-empty": "ValueError",
    "/header-name-colon": "ValueError",
    "/header-name-crlf": "ValueError",
    "/header-str": "TypeError",
    "/header-value-int": "TypeError",
    "/header-triple": "(TypeError|ValueError)",
    "/header-int": "TypeError",
    "/headers-int": "TypeError",
    "/length-twice": "ValueError",
    "/length-repeated": "ValueError",
    "/length-word": "ValueError",
    "/length-negative": "ValueError",
    "/start-twice": "RuntimeError",  # the first head is not sent before a body
    "/body-str": "TypeError",
    "/body-int": "TypeError",
    "/body-none": "TypeError",
    "/length-long": "RuntimeError",
}


@pytest.fixture
def s(server):
    return server("misbehave:app", shared=True)


@pytest.mark.parametrize("path", REFUSED_500)
def test_refused_message(s, path):
    s.expect_errors(f"GET {path}\\b")
    r = s.get(path)
    assert r.status == 500 and b"Traceback" not in r.body
    seen = json.loads(s.get("/seen").body)[path]
    assert wire.re.match(REFUSED_500[path] + ": .", seen), seen
    s.wait_log("Traceback")


@pytest.mark.parametrize("path", ["/length-short", "/length-short-stream"])
def test_wrong_length_is_never_a_whole_response(s, path):
    """Logged, and the connection is closed: by the framing the client sees that the answer is incomplete."""
    s.expect_errors(f"GET {path}\\b")
    with s.connect() as c:
        c.send(wire.request("GET", path))
        try:
            r = c.response()
            assert r.status == 500
            assert c.is_closed()
        except wire.Closed as closed:
            assert len(closed.got) < 10


def test_too_much_body_is_cut_before_it_can_be_read_as_a_response(s):
    """The first piece was a whole body by the declared length; what is beyond it never leaves, and the connection closes."""
    s.expect_errors("GET /length-long-stream")
    with s.connect() as c:
        c.send(wire.request("GET", "/length-long-stream"))
        everything = c.rest()
    assert everything.endswith(b"\r\n\r\n123") or everything.startswith(b"HTTP/1.1 500")


@pytest.mark.parametrize("path", ["/start-only", "/nothing"])
def test_returns_without_an_answer(s, path):
    s.expect_errors(f"GET {path}\\b")
    assert s.get(path).status == 500


def test_returns_in_the_middle_of_the_body(s):
    s.expect_errors("GET /start-and-part")
    with s.connect() as c:
        c.send(wire.request("GET", "/start-and-part"))
        with pytest.raises(wire.Closed):
            c.response()


@pytest.mark.parametrize("path", ["/body-after-end", "/start-after-end"])
def test_messages_after_the_end(s, path):
    """The answer was complete; the mistake is the application's to read in the log."""
    s.expect_errors(f"GET {path}\\b")
    r = s.get(path)
    assert r.status == 200 and r.body == b"body"


@pytest.mark.parametrize(
    "path, text",
    [("/raise-before", "raised before the head"), ("/raise-after-start", "raised after the head"), ("/raise-base", "not an Exception")],
)
def test_exception_before_the_body_is_500(s, path, text):
    s.expect_errors(f"GET {path}\\b")
    r = s.get(path)
    assert r.status == 500
    s.wait_log(text)
    assert "misbehave.py" in s.log
    assert text.encode() not in r.body


def test_exception_in_the_body_closes_the_connection(s):
    s.expect_errors("GET /raise-in-body")
    with s.connect() as c:
        c.send(wire.request("GET", "/raise-in-body"))
        with pytest.raises(wire.Closed) as closed:
            c.response()
        assert b"0\r\n\r\n" not in closed.value.got
    s.wait_log("raised in the body")


def test_exception_after_the_end_is_logged(s):
    s.expect_errors("GET /raise-after-end")
    assert s.get("/raise-after-end").body == b"body"
    s.wait_log("raised after the end")


def test_error_line_names_method_and_path_but_not_the_query(s):
    s.expect_errors("POST /raise-before")
    s.post("/raise-before?secret=1", b"x")
    s.wait_log("POST /raise-before")
    assert "secret" not in s.log


@pytest.mark.parametrize("path", ["/cancel-self", "/cancelled-error"])
def test_cancelled_by_itself_is_500(s, path):
    s.expect_errors(f"GET {path}\\b")
    assert s.get(path).status == 500


def test_mistake_that_is_caught_can_be_mended(s):
    r = s.get("/catch-all")
    assert r.status == 200 and b"Error: " in r.body


def test_send_that_is_not_awaited_harms_nobody(s):
    with s.connect() as c:
        c.send(wire.request("GET", "/send-not-awaited"))
        assert c.response().status == 200
        assert c.get("/seen").status == 200


def test_more_body_is_a_truth_value(s):
    assert s.get("/more-body-odd").body == b"xy"


def test_concurrent_sends(s):
    r = s.get("/concurrent-send")
    assert len(r.body) == 1_600_000


def test_concurrent_receives(s):
    with s.connect() as c:
        c.send("POST /concurrent-receive HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        c.send(b"3\r\nabc\r\n")
        wire.time.sleep(0.1)
        c.send(b"0\r\n\r\n")
        r = c.response()
    assert r.status == 200 and len(r.json()) == 2 and "http.request" in r.json()


def test_receive_given_up_by_a_timeout_loses_nothing(s):
    with s.connect() as c:
        c.send("POST /cancelled-receive HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        wire.time.sleep(0.2)
        c.send(b"0123456789")
        assert c.response().body == b"timeout 0123456789"


def test_receive_after_the_answer_says_disconnect(s):
    with s.connect() as c:
        assert c.get("/receive-after-end").status == 200
    wire.eventually(lambda: s.get("/seen").json().get("/receive-after-end") == "http.disconnect")


def test_send_from_a_task_after_the_end_is_refused(s):
    assert s.get("/late-send").body == b"body"
    wire.eventually(lambda: s.get("/seen").json().get("/late-send") not in (None, "none"))


def test_head_of_an_endless_stream_lets_others_run(server):
    """Every send of it is satisfied at once; it must suspend all the same, and end when its client goes."""
    s = server("misbehave:app")
    with s.connect() as c:
        c.send(wire.request("HEAD", "/head-endless"))
        with s.connect(timeout=5) as other:
            for _ in range(5):
                assert other.get("/seen").status == 200


def test_not_a_coroutine(server):
    s = server("misbehave:not_async", "--lifespan", "off")
    s.expect_errors("GET /")
    assert s.get("/").status == 500


def test_every_sequence_is_covered():
    """A new row in misbehave.SEQUENCES needs its test."""
    tested = set(REFUSED_500) | {
        "/length-short", "/length-short-stream", "/length-long-stream", "/start-only", "/nothing", "/start-and-part",
        "/body-after-end", "/start-after-end", "/more-body-odd",
    }  # fmt: skip
    assert set(misbehave.SEQUENCES) == tested

"""WebSockets as a real browser speaks them: a page in a headless Chromium."""

import json
import signal

import pytest
import wire


@pytest.fixture
def s(server, page):
    s = server("ws_page:app", "--websocket-drain", "0s")
    page.open(s.base)
    return s


def seen(s, name):
    return json.loads(wire.eventually(lambda: s.events().get(name), 20, f"the end of {name}"))


def test_text_and_binary_messages(s, page):
    page.wait("document.querySelectorAll('li').length == 4")
    assert page.evaluate("Array.from(document.querySelectorAll('li'), e => e.textContent)") == ["hällo", "0 1 255", "98 108 111 98", ""]
    assert seen(s, "page") == {"type": "websocket.disconnect", "code": 1000, "reason": ""}
    # Large ones: more than a frame of Chromium's holds, and more than a socket takes at once.
    assert page.evaluate("""(async () => {
        const text = "ä".repeat(300000), bytes = new Uint8Array(3000000).map((_, i) => i * 7919 >> 5);
        const {got} = await converse("/echo", [text, bytes]);
        return got[0] == text && got[1] == show(bytes);
    })()""")


def test_what_is_negotiated(s, page):
    seen_by_browser = page.evaluate("converse('/protocols?p', [], {protocols: ['one', 'two']})")
    assert seen_by_browser["protocol"] == "two"
    assert seen_by_browser["extensions"].startswith("permessage-deflate")
    # The page's cookie and origin reach the application.
    scope = page.evaluate("""new Promise(resolve => {
        const socket = new WebSocket(base + "/scope_text");
        socket.onmessage = e => { resolve(e.data); socket.close(); };
    })""")
    headers = json.loads(scope)["headers"]
    assert "b'flavour=oat'" in headers and f"b'{s.base}'" in headers and "b'origin'" in headers


def test_close_codes(s, page):
    closed = page.evaluate("converse('/echo?own', ['x'], {code: 4321, reason: 'größer'})")
    assert (closed["events"], closed["code"], closed["reason"], closed["clean"]) == (["open"], 4321, "größer", True)
    assert seen(s, "own") == {"type": "websocket.disconnect", "code": 4321, "reason": "größer"}
    closed = page.evaluate("""converse('/closes', ['{"code": 4000, "reason": "enough"}', 'not sent'])""")
    assert (closed["got"], closed["code"], closed["reason"], closed["clean"]) == ([], 4000, "enough", True)


def test_a_refusal_and_an_application_that_fails(s, page):
    s.expect_errors("WS /fails_late: exception")
    for path in ("/refuse", "/deny"):
        closed = page.evaluate(f"converse('{path}', [])")
        assert (closed["events"], closed["code"], closed["clean"]) == (["error"], 1006, False)
    assert page.evaluate("listen('/fails_late')")
    assert page.wait("window.ended") == {"code": 1011, "reason": "", "clean": True}
    # Chromium says so in its console, too.
    assert len(page.problems) == 2 and all("WebSocket connection to" in p for p in page.problems), page.problems
    page.problems.clear()


def test_a_tab_that_is_left(s, page, browser):
    with browser.page() as tab:
        tab.open(s.base)
        assert tab.evaluate("listen('/echo?closed')")
    assert seen(s, "closed")["code"] == 1001
    assert page.evaluate("listen('/echo?reloaded')")
    page.open(s.base)
    assert seen(s, "reloaded")["code"] == 1001


def test_a_server_that_ends(s, page):
    assert page.evaluate("listen('/echo')")
    s.stop(signal.SIGTERM, timeout=20)
    assert page.wait("window.ended") == {"code": 1012, "reason": "", "clean": True}

"""WebSockets through a real nginx, with the sample configuration that the README names."""

import json
import signal
import time

import nginx
import pytest
import wire
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

PATIENCE = 20


@pytest.fixture
def behind(server, tmp_path):
    """behind(app, *args, **replaced) -> the server on a unix socket, and a function that connects through nginx to a path of it."""
    running = []

    def start(app, *args, replaced=(), **options):
        path = tmp_path / "mysite.sock"
        s = server(app, *args, bind=f"unix:{path}", **options)
        front = nginx.Nginx("websocket.conf", {"unix:/run/mysite.sock": f"unix:{path}", **dict(replaced)})
        running.append(front.__enter__())
        return s, front

    yield start
    # Before the server is looked at: nginx keeps connections to it.
    for front in running:
        front.stop()


def opened(front, path, **options):
    return connect(f"ws://127.0.0.1:{front.port}{path}", **options)


def seen(front, name):
    """What the application was told at the end of a connection of that name."""

    def ask():
        with wire.Connection(("127.0.0.1", front.port)) as c:
            return c.get("/events").json().get(name)

    return json.loads(wire.eventually(ask, PATIENCE, f"the end of {name}"))


def test_echo_and_the_clients_close_codes(behind):
    s, front = behind("ws:app")
    for name, code, reason in [("plain", 1000, ""), ("away", 1001, "tab closed"), ("own", 4999, "größer")]:
        with opened(front, f"/echo?{name}") as c:
            assert c.response.headers["Server"].startswith("nginx") and c.protocol.extensions
            for message in ("hällo", b"\0\xff", "", "x" * 300_000, b"y" * 1_000_000):
                c.send(message)
                assert c.recv(PATIENCE) == message
            assert c.ping(b"p").wait(PATIENCE)
            c.close(code, reason)
        assert seen(front, name) == {"type": "websocket.disconnect", "code": code, "reason": reason}
    with opened(front, "/echo?gone") as c:
        c.socket.close()  # without a Close
    assert seen(front, "gone")["code"] == 1006


def test_plain_requests_share_the_connections_that_nginx_keeps(behind):
    s, front = behind("ws:app")
    with wire.Connection(("127.0.0.1", front.port)) as c:
        for _ in range(5):
            assert c.get("/events").status == 200
        # What is no WebSocket is not passed on as an upgrade.
        assert c.request("GET", "/events", {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMA"}).status == 200
    assert sum(s.live(pid)["conns"] for pid in s.workers()) == 1


def test_the_applications_close_codes_and_refusals(behind):
    s, front = behind("ws_frameworks:app")
    with opened(front, "/guarded?token=right") as c:
        assert c.recv(PATIENCE) == "right"
        with pytest.raises(ConnectionClosed) as e:
            c.recv(PATIENCE)
        assert (e.value.rcvd.code, e.value.rcvd.reason) == (4002, "done")
    with opened(front, "/echo/anna", subprotocols=["one", "two"]) as c:
        assert c.subprotocol == "one"
    for path, status, body in [("/guarded", 403, None), ("/denied", 429, b"come later")]:
        with pytest.raises(InvalidStatus) as refused, opened(front, path):
            pass
        assert refused.value.response.status_code == status
        assert body is None or refused.value.response.body == body


def test_a_reload_is_seen_behind_nginx(behind):
    s, front = behind("ws:app", "--websocket-drain", "200ms")
    (old,) = s.workers()
    with opened(front, "/echo") as c:
        s.send_signal(signal.SIGHUP)
        with pytest.raises(ConnectionClosed) as e:
            c.recv(PATIENCE)
        assert e.value.rcvd.code == 1012
    with opened(front, "/echo") as c:  # at once: somebody accepts all the time
        c.send("again")
        assert c.recv(PATIENCE) == "again"
    wire.eventually(lambda: s.workers() and old not in s.workers(), PATIENCE, "the old worker's end")
    s.baseline()


def test_pings_keep_nginx_from_ending_a_silent_websocket(behind):
    """proxy_read_timeout is what the sample's comment says: pings count."""
    silence = {"proxy_read_timeout 75s": "proxy_read_timeout 2s", "proxy_send_timeout 75s": "proxy_send_timeout 2s"}
    s, front = behind("ws:app", "--ws-ping-interval", "200ms", replaced=silence)
    with opened(front, "/echo?silent", ping_interval=None) as c:
        time.sleep(3)
        c.send("still")
        assert c.recv(PATIENCE) == "still"
    assert seen(front, "silent")["code"] == 1000


def test_without_pings_nginx_ends_a_silent_websocket(behind):
    s, front = behind("ws:app", "--ws-ping-interval", "off", replaced={"proxy_read_timeout 75s": "proxy_read_timeout 1s"})
    with opened(front, "/echo?ended", ping_interval=None) as c:
        with pytest.raises(ConnectionClosed):
            c.recv(PATIENCE)
    assert seen(front, "ended")["code"] == 1006

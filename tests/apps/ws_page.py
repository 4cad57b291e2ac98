"""A page whose script talks to the WebSockets of ws.py; the rest is theirs."""

import ws

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>WebSockets</title>
<link rel="icon" href="data:,">
<ul></ul>
<script>
const base = `ws://${location.host}`;

// What a message was, as text: binary ones by their bytes.
const show = data => typeof data == "string" ? data : Array.from(new Uint8Array(data)).join(" ");

// Sends each message when the one before was answered, closes, and tells all that happened.
function converse(path, messages, {protocols = [], code = 1000, reason = ""} = {}) {
  return new Promise(resolve => {
    const socket = new WebSocket(base + path, protocols), got = [], events = [];
    let next = 0;
    const go = () => next < messages.length ? socket.send(messages[next++]) : socket.close(code, reason);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { events.push("open"); go(); };
    socket.onmessage = e => { got.push(e.data); go(); };
    socket.onerror = () => events.push("error");
    socket.onclose = e => resolve({
      got: got.map(show), events, code: e.code, reason: e.reason, clean: e.wasClean,
      protocol: socket.protocol, extensions: socket.extensions,
    });
  });
}

// Opens one and leaves it open; window.ended is what its close event said.
function listen(path) {
  return new Promise(resolve => {
    const socket = new WebSocket(base + path);
    window.ended = null;
    socket.onopen = () => resolve(true);
    socket.onclose = e => { window.ended = {code: e.code, reason: e.reason, clean: e.wasClean}; };
  });
}

converse("/echo?page", ["hällo", new Uint8Array([0, 1, 255]), new Blob(["blob"]), ""]).then(({got}) => {
  for (const text of got)
    document.querySelector("ul").append(Object.assign(document.createElement("li"), {textContent: text}));
});
</script>
</html>
"""


async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/":
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"set-cookie", b"flavour=oat; Path=/; SameSite=Strict")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE.encode()})
    else:
        await ws.app(scope, receive, send)

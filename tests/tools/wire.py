"""HTTP/1.1 over a bare socket: what was sent and received is what the test says, byte for byte."""

import re
import socket
import ssl
import time


class Response:
    """One answer, as it came."""

    def __init__(self, status, reason, version, headers, body, raw):
        self.status, self.reason, self.version, self.headers, self.body, self.raw = status, reason, version, headers, body, raw

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:200]!r}>"

    def all(self, name):
        return [value for n, value in self.headers if n.lower() == name.lower()]

    def get(self, name, default=None):
        return next(iter(self.all(name)), default)

    def names(self):
        return [n.lower() for n, _ in self.headers]

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        import json

        return json.loads(self.body)


class Closed(Exception):
    """The peer closed before the answer was complete; `got` is what came."""

    def __init__(self, got):
        super().__init__(f"closed after {got!r}")
        self.got = got


class Connection:
    """A client socket with a buffer. Every wait is bounded by `timeout` seconds. tls: an ssl.SSLContext; with it `cut` tells
    whether the stream ended without a close_notify."""

    def __init__(self, address, timeout=10.0, rcvbuf=None, tls=None, server_name="localhost", session=None):
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
        else:
            self.sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(timeout)
        self.sock.connect(address if isinstance(address, str) else tuple(address))
        if not isinstance(address, str):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer, self.cut = b"", False
        if tls:
            bare = self.sock
            try:
                self.sock = tls.wrap_socket(bare, server_hostname=server_name, suppress_ragged_eofs=False, session=session)
            except BaseException:
                bare.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        return self

    def send_slowly(self, data, pieces, delay=0.0):
        """In writes that end at the given offsets."""
        last = 0
        for end in [*sorted(pieces), len(data)]:
            if end > last:
                self.send(data[last:end])
                last = end
                if delay:
                    time.sleep(delay)
        return self

    def fin(self):
        """No more will be sent; still reading."""
        self.sock.shutdown(socket.SHUT_WR)
        return self

    # -- reading

    def receive(self, n):
        """As recv(); b"" also after a reset, or where TLS is cut off."""
        try:
            return self.sock.recv(n)
        except ConnectionResetError:
            return b""
        except ssl.SSLEOFError:
            self.cut = True
            return b""

    def fill(self):
        """More bytes into the buffer; False at the end of the stream."""
        data = self.receive(262144)
        self.buffer += data
        return bool(data)

    def until(self, mark):
        while mark not in self.buffer:
            if not self.fill():
                raise Closed(self.buffer)
        head, self.buffer = self.buffer.split(mark, 1)
        return head + mark

    def exactly(self, n):
        chunks, have = [self.buffer], len(self.buffer)
        while have < n:
            data = self.receive(min(1 << 20, n - have + 65536))
            if not data:
                raise Closed(b"".join(chunks))
            chunks.append(data)
            have += len(data)
        everything = b"".join(chunks)
        self.buffer = everything[n:]
        return everything[:n]

    def rest(self):
        """Everything until the peer closes."""
        chunks = [self.buffer]
        while data := self.receive(262144):
            chunks.append(data)
        self.buffer = b""
        return b"".join(chunks)

    def head(self):
        raw = self.until(b"\r\n\r\n")
        lines = raw[:-4].split(b"\r\n")
        match = re.fullmatch(rb"HTTP/(\d\.\d) (\d{3}) ?(.*)", lines[0])
        assert match, f"not a status line: {lines[0]!r}"
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            assert colon and name == name.strip() and name, f"not a header: {line!r}"
            assert b"\n" not in line and b"\r" not in line and b"\0" not in line
            headers.append((name.decode("latin-1"), value.strip().decode("latin-1")))
        return Response(int(match[2]), match[3].decode(), match[1].decode(), headers, b"", raw)

    def chunked(self):
        """The chunks of a body, and its trailers."""
        chunks = []
        while True:
            size = int(self.until(b"\r\n")[:-2].split(b";")[0], 16)
            if size == 0:
                break
            chunks.append(self.exactly(size))
            assert self.exactly(2) == b"\r\n"
        trailers = []
        while (line := self.until(b"\r\n")) != b"\r\n":
            trailers.append(line[:-2])
        return chunks, trailers

    def response(self, method="GET", informational=False):
        """The next answer, framed as RFC 9112 section 6.3 says. Asserts that the framing is unambiguous."""
        while True:
            response = self.head()
            if response.status >= 200 or informational or response.status == 101:
                break
        if response.status < 200:
            return response
        lengths, codings = response.all("content-length"), response.all("transfer-encoding")
        assert len(lengths) <= 1 and len(codings) <= 1 and not (lengths and codings), response
        if method == "HEAD" or response.status in (204, 304):
            response.framing = "none"
        elif codings:
            assert codings[0].lower() == "chunked", codings
            response.chunks, response.trailers = self.chunked()
            response.body = b"".join(response.chunks)
            response.framing = "chunked"
        elif lengths:
            response.body = self.exactly(int(lengths[0]))
            response.framing = "length"
        else:
            response.body = self.rest()
            response.framing = "close"
        return response

    def request(self, method, target, headers=(), body=b"", version="1.1"):
        """Sends a request and reads its answer."""
        self.send(request(method, target, headers, body, version))
        return self.response(method)

    def get(self, target, headers=()):
        return self.request("GET", target, headers)

    # -- the end

    def is_closed(self, within=5.0):
        """Does the peer close (after nothing more) within this time?"""
        assert not self.buffer, f"unread: {self.buffer!r}"
        self.sock.settimeout(within)
        try:
            data = self.receive(1)
        except TimeoutError:
            return False
        assert not data, f"unexpected byte {data!r}"
        return True

    def is_open(self, for_seconds=0.15):
        return not self.is_closed(for_seconds)


def request(method, target, headers=(), body=b"", version="1.1"):
    """The bytes of a request; Host and Content-Length are added where they are missing and needed."""
    headers = list(headers.items() if isinstance(headers, dict) else headers)
    names = {name.lower() for name, _ in headers}
    if version == "1.1" and "host" not in names:
        headers.insert(0, ("Host", "test"))
    if body and not names & {"content-length", "transfer-encoding"}:
        headers.append(("Content-Length", str(len(body))))
    head = f"{method} {target} HTTP/{version}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n"
    return head.encode("latin-1") + body


def chunked(*chunks, trailers=()):
    """A chunked body's bytes."""
    coded = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks if c)
    return coded + b"0\r\n" + b"".join(t + b"\r\n" for t in trailers) + b"\r\n"


def eventually(condition, within=5.0, what="condition"):
    """Polls until condition() is true; returns what it returned."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.01)

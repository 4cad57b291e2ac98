"""A WebSocket's client over raw bytes: it says what a test wants it to say, right or wrong (RFC 6455)."""

import base64
import hashlib
import struct
import zlib

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN, RSV1 = 0x80, 0x40
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x37\xfa\x21\x3d"


def frame(first, payload=b"", mask=MASK):
    """first: FIN, RSV bits and opcode; mask None: unmasked."""
    n = len(payload)
    length = bytes([n]) if n < 126 else b"\x7e" + struct.pack(">H", n) if n < 65536 else b"\x7f" + struct.pack(">Q", n)
    if mask is None:
        return bytes([first]) + length + payload
    key = int.from_bytes((mask * (n // 4 + 1))[:n], "big")
    masked = (int.from_bytes(payload, "big") ^ key).to_bytes(n, "big")
    return bytes([first, length[0] | 0x80]) + length[1:] + mask + masked


def close_payload(code, reason=""):
    return struct.pack(">H", code) + reason.encode()


def opening(path, extra=(), without=(), **change):
    """The opening request; change: fields by their name with underscores, without: names left out."""
    fields = {"Host": "test", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": KEY, "Sec-WebSocket-Version": "13"}
    fields.update({name.replace("_", "-"): value for name, value in change.items()})
    lines = [f"{name}: {value}" for name, value in fields.items() if name not in without]
    lines += [f"{name}: {value}" for name, value in extra]
    return (f"GET {path} HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode()


class Socket:
    """On a wire.Connection; opened by the constructor unless the server says otherwise."""

    def __init__(self, connection, path, extra=(), early=b""):
        self.wire = connection
        self.wire.send(opening(path, extra) + early)
        self.answer = self.wire.response()
        assert self.answer.status == 101, self.answer
        digest = hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        assert self.answer.all("sec-websocket-accept") == [base64.b64encode(digest).decode()]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.wire.close()

    def send(self, first, payload=b"", **kwargs):
        self.wire.send(frame(first, payload, **kwargs))
        return self

    def text(self, text):
        return self.send(FIN | TEXT, text.encode())

    def bytes(self, data):
        return self.send(FIN | BINARY, data)

    def close(self, code=1000, reason=""):
        return self.send(FIN | CLOSE, close_payload(code, reason))

    def read(self):
        """The next frame: its first byte and payload. A server's frames are unmasked and in the shortest form."""
        first, n = self.wire.exactly(2)
        assert n < 128, "a server does not mask"
        if n == 126:
            (n,) = struct.unpack(">H", self.wire.exactly(2))
            assert n > 125
        elif n == 127:
            (n,) = struct.unpack(">Q", self.wire.exactly(8))
            assert n > 65535
        return first, self.wire.exactly(n)

    def expect(self, first, payload=b""):
        got = self.read()
        assert got == (first, payload), got if len(got[1]) < 300 else (got[0], len(got[1]))
        return self

    def expect_text(self, text):
        return self.expect(FIN | TEXT, text.encode())

    def expect_close(self, code=None, reason=""):
        """A Close, and then the end of the stream."""
        self.expect(FIN | CLOSE, b"" if code is None else close_payload(code, reason))
        assert self.wire.is_closed(10)


class Deflate:
    """permessage-deflate's both sides for a client."""

    def __init__(self, bits=12):
        self.out = zlib.compressobj(6, zlib.DEFLATED, -bits)
        self.into = zlib.decompressobj(-bits)

    def squeeze(self, data):
        return (self.out.compress(data) + self.out.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def inflate(self, data):
        return self.into.decompress(data + b"\0\0\xff\xff")

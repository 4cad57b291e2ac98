"""A response on its way out: its head, its body, the pieces of a stream."""

from collections import deque
from contextlib import aclosing
from contextvars import copy_context

from django.http.response import HttpResponseBase, ResponseHeaders

PIECE = 2**16  # of a body, for a send() that is not the server's own: as Django cuts it
AHEAD = 2**18  # bytes that a stream's iterator may be ahead of the client


def head(response):
    """The headers, as Django's send_response() encodes them. Any thread."""
    if type(response.headers) is ResponseHeaders and getattr(type(response), "items", None) is HttpResponseBase.items:
        headers = [(name.encode("ascii"), value.encode("latin1")) for name, value in response.headers._store.values()]
    else:
        headers = []
        for name, value in response.items():
            if isinstance(name, str):
                name = name.encode("ascii")
            if isinstance(value, str):
                value = value.encode("latin1")
            headers.append((bytes(name), bytes(value)))
    for cookie in response.cookies.values():
        headers.append((b"Set-Cookie", cookie.OutputString().encode("ascii").strip()))
    return headers


async def send_whole(send, status, headers, content, in_pieces):
    """An answer whose body is there. *in_pieces*: somebody else's send() may count on them."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if in_pieces and len(content) > PIECE:
        for position in range(0, len(content), PIECE):
            piece = content[position : position + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": position + PIECE < len(content)})
    else:
        await send({"type": "http.response.body", "body": content, "more_body": False})


async def send_stream(send, response, headers, trips):
    """A streaming answer: async iterators here, others on the request's thread."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    if response.is_async:
        async with aclosing(aiter(response)) as parts:
            async for part in parts:
                for position in range(0, len(part) or 1, PIECE):
                    await send({"type": "http.response.body", "body": part[position : position + PIECE], "more_body": True})
    else:
        async with aclosing(_Stream(trips.loop, response).parts(trips, copy_context())) as parts:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


class _Stream:
    """An iterator that is pulled on a thread. It may be AHEAD bytes before what has been sent; while the client is slower no thread waits for it."""

    def __init__(self, loop, response):
        self.loop = loop
        self.response = response
        self.iterator = None
        self.pieces = deque()
        self.is_told = False
        self.is_wanted = True
        self.news = None

    async def parts(self, trips, context):
        """What has come since the last time, as one. On the loop."""
        is_over = False
        while not is_over:
            pulling = trips.start(context, self._pull)
            pulling.add_done_callback(self._tell)
            try:
                while not (is_pulled := pulling.done()) or self.pieces:
                    self.is_told = False  # before the look: what comes after it is told again
                    if self.pieces:
                        pieces = [self.pieces.popleft() for _ in range(len(self.pieces))]
                        yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    elif not is_pulled:
                        self.news = self.loop.create_future()
                        await self.news
            finally:
                if not pulling.done():  # the client has left: the iterator is at its next piece, or will be
                    self.is_wanted = False
                    pulling.cancel()
            is_over = pulling.result()

    def _pull(self):
        """On the thread: until it is far enough ahead (False) or at the end (True)."""
        if self.iterator is None:
            self.iterator = iter(self.response)
        size = 0
        for piece in self.iterator:
            if not self.is_wanted:
                return False
            if not piece and self.pieces:
                continue
            size += len(piece)
            self.pieces.append(piece)  # also where it is empty: send() is who knows that the client has left
            if not self.is_told:
                self.is_told = True
                self.loop.call_soon_threadsafe(self._tell)
            if size >= AHEAD:
                return False
        return True

    def _tell(self, _=None):
        if self.news is not None and not self.news.done():
            self.news.set_result(None)

"""Work in Python for every thread of the server, and endpoints that need none.

    /            at once, on the loop
    /spin        on a thread of the executor: computes until /stop, answers with all the switch intervals that it has seen
    /running     how many compute now
    /stop        lets them end
    /interval    sys.getswitchinterval(), on the loop
    /fork        on a thread: forks; what sys.getswitchinterval() says in the child
"""

import asyncio
import os
import sys

USUAL = 0.007  # not CPython's own

computing = set()
stopped = False


def spin(number):
    computing.add(number)
    seen = set()
    try:
        while not stopped:
            for _ in range(100):
                seen.add(sys.getswitchinterval())
    finally:
        computing.discard(number)
    return " ".join(map(str, sorted(seen)))


def fork():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, repr(sys.getswitchinterval()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said.decode()


async def app(scope, receive, send):
    global stopped
    if scope["type"] == "lifespan":
        sys.setswitchinterval(USUAL)
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path, said = scope["path"], "ok"
    if path == "/spin":
        said = await asyncio.to_thread(spin, object())
    elif path == "/fork":
        said = await asyncio.to_thread(fork)
    elif path == "/running":
        said = len(computing)
    elif path == "/stop":
        stopped = True
    elif path == "/interval":
        said = sys.getswitchinterval()
    body = str(said).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

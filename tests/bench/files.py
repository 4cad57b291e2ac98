"""Files for the cases of their own: what is served, nginx beside us, and a client that throws away what it gets."""

import functools
import os
import re
import socket
import tempfile
import time
from pathlib import Path

BIG, SMALL = 1 << 30, 4096
PIECE = 1 << 20

NGINX = """
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 100000000;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location /static/ {{ alias {files}/; etag on; }}
    }}
}}
"""


@functools.cache
def folder():
    return tempfile.TemporaryDirectory(prefix="ringcorn-bench-")


@functools.cache
def files():
    """The folder that is served: `big`, 1 GiB that is in the page cache, and `small`, 4 KiB."""
    path = Path(folder().name, "files")
    path.mkdir()
    Path(folder().name).chmod(0o755)
    with open(path / "big", "wb") as f:
        for _ in range(BIG // PIECE):
            f.write(bytes(PIECE))
    (path / "small").write_bytes(os.urandom(SMALL))
    return path


def nginx(port):
    conf = Path(folder().name, f"nginx-{port}.conf")
    user = "user root;" if os.getuid() == 0 else ""
    conf.write_text(NGINX.format(folder=folder().name, files=files(), port=port, user=user))
    return conf


def download(port, path):
    """Bytes of an answer's body, and the seconds it took. The bytes are thrown away by the kernel: a client that copies them would only take
    the CPU from the server."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        s.settimeout(60)
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = s.recv(65536)
            if not piece:
                raise RuntimeError(f"closed after {head!r}")
            head += piece
        head, body = head.split(b"\r\n\r\n", 1)
        length = re.search(rb"content-length: (\d+)", head, re.I)
        if b" 200 " not in head.split(b"\r\n")[0] + b" " or length is None:
            raise RuntimeError(f"not a whole file: {head!r}")
        left, room = int(length[1]) - len(body), bytearray(PIECE)
        while left > 0:
            n = s.recv_into(room, PIECE, socket.MSG_TRUNC)
            if n == 0:
                raise RuntimeError(f"{left} bytes are missing")
            left -= n
    return int(length[1]), time.monotonic() - began

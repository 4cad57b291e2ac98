"""Certificates for the cases with TLS, and a client that makes full handshakes."""

import functools
import socket
import ssl
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CLIENTS = 16
KINDS = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}


@functools.cache
def folder():
    return tempfile.TemporaryDirectory(prefix="ringcorn-bench-")


@functools.cache
def certificate(kind):
    """The paths of a certificate and its key (PKCS#8, which granian wants)."""
    cert, key = (Path(folder().name, f"{kind}.{end}") for end in ("pem", "key"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", *KINDS[kind], "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def anybody():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ecdh_curve("X25519")  # newer libraries offer X25519MLKEM768 first, which not every server has
    return context


def handshakes(port, seconds):
    """How many were made in so many seconds: full ones (no session is kept), CLIENTS at a time, each ended by close_notify both ways, so
    that the server has seen all of it. A single client would leave the server idle for most of the time, and measure what it costs to wake it."""
    context = anybody()
    deadline = time.monotonic() + seconds

    def client(_):
        made = 0
        while time.monotonic() < deadline:
            with socket.create_connection(("127.0.0.1", port), 10) as bare:
                tls = context.wrap_socket(bare)
                try:
                    tls.unwrap()
                except OSError:
                    pass  # some servers close without a word
                tls.close()
            made += 1
        return made

    with ThreadPoolExecutor(CLIENTS) as clients:
        return sum(clients.map(client, range(CLIENTS)))

"""What `make bench` measures, and the ratios that must hold."""

from dataclasses import dataclass, field
from pathlib import Path

from servers import ASGI_PEERS, UVICORN_WS, WSGI_PEERS

HERE = Path(__file__).resolve().parent
DJANGO = HERE.parent / "apps" / "pg_project"

# As a browser sends them; with Host eleven headers (wrk adds Host by itself).
HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Connection": "keep-alive",
    "Cookie": "sessionid=abcdefghijklmnopqrstuvwxyz012345; csrftoken=ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "X-Forwarded-For": "203.0.113.7",
}


@dataclass
class Limit:
    """`ours` costs at most `most` times the cheapest of `peers`."""

    peers: list
    most: float
    ours: str = "ringcorn"

    def label(self, peers):
        return f"{self.ours} / " + (peers[0] if len(peers) == 1 else "the best of " + ", ".join(peers))


@dataclass
class Case:
    title: str
    asgi: str = ""
    path: str = "/"
    headers: dict = field(default_factory=dict)
    servers: list = field(default_factory=list)
    limits: list = field(default_factory=list)
    kind: str = "load"  # load: CPU per request under wrk; ws: per message under ws_load; file: per download (files.py); handshakes (tls.py), crossing, gil, memory: see the modules of these names
    tls: str = ""  # the kind of key: ec, rsa
    cipher: str = ""  # what Ringcorn is held to, where it would choose another than the peers do
    wsgi: str = ""
    folder: Path = HERE
    env: dict = field(default_factory=dict)
    env_of: dict = field(default_factory=dict)  # server -> what is different there
    needs_postgres: bool = False
    path_of: dict = field(default_factory=dict)  # server -> its path, where it differs
    needs_files: bool = False  # BENCH_FILES: files.py
    message: int = 0  # ws, memory of WebSockets: bytes of a message
    most: float = 0  # memory: bytes of ours
    deflate: bool = False  # ws: permessage-deflate, negotiated and used

    @property
    def apps(self):
        return {"asgi": self.asgi, "wsgi": self.wsgi}


OURS = ["ringcorn", "ringcorn-epoll"]
PLAIN = [*OURS, "uvicorn", "granian", "fastpysgi"]
TLS = [*OURS, "uvicorn", "granian"]
BETTER = ["uvicorn", "granian"]
CLIENTS_CHOICE = "TLS_AES_256_GCM_SHA384"  # OpenSSL's clients name it first, and the peers go by that
FILES = ["nginx", "ringcorn-static", "ringcorn-static-epoll", *OURS, "ringcorn-wsgi"]
EPOLL = Limit(["ringcorn"], 1.15, "ringcorn-epoll")


def django(title, path, middleware, servers, limits, **options):
    """The project of the acceptance tests; no case but those with a query touches PostgreSQL."""
    env = {"DJANGO_SETTINGS_MODULE": "project.settings", "MIDDLEWARE_SET": middleware, **options.pop("env", {})}
    return Case(
        title, "project.asgi:application", path, HEADERS, servers, limits,
        wsgi="project.wsgi:application", folder=DJANGO, env=env, **options,
    )  # fmt: skip


SYNC_SERVERS = [*OURS, "ringcorn-wsgi", "uvicorn", *WSGI_PEERS]
SYNC_LIMITS = [Limit(WSGI_PEERS, 1.2), Limit(["uvicorn"], 0.1)]

CASES = {
    "plain": Case(
        "plaintext, bare application, only Host", "apps:plain", servers=PLAIN, limits=[Limit(BETTER, 0.45), Limit(["fastpysgi"], 0.6), EPOLL]
    ),
    "headers": Case(
        "plaintext with receive(), 11 headers", "apps:plain_receive", headers=HEADERS, servers=PLAIN, limits=[Limit(BETTER, 0.3), EPOLL]
    ),
    "starlette": Case("Starlette route", "apps:starlette", headers=HEADERS, servers=PLAIN, limits=[Limit(BETTER, 0.6), EPOLL]),
    "fastapi": Case("FastAPI async endpoint", "apps:fastapi", headers=HEADERS, servers=PLAIN, limits=[Limit(BETTER, 0.85), EPOLL]),
    # Ringcorn with eight threads like everybody; -auto with as many as it takes by itself, AnyIO's 40.
    "fastapi-def": Case(
        "FastAPI def endpoint with a response model", "apps:fastapi", "/sync", HEADERS,
        [*OURS, "ringcorn-auto", *ASGI_PEERS], [Limit(BETTER, 0.55), EPOLL],
    ),
    "wsgi": Case(
        "WSGI plaintext, only Host", wsgi="apps:plain_wsgi", servers=["ringcorn-wsgi", "ringcorn-wsgi-epoll", *WSGI_PEERS],
        limits=[Limit(["granian-wsgi"], 0.7, "ringcorn-wsgi"), Limit(["ringcorn-wsgi"], 1.15, "ringcorn-wsgi-epoll")],
    ),
    # Without middleware: what the server and its crossing cost is not hidden behind Django's own work.
    "django-sync": django("Django sync view, no middleware", "/plain/", "none", SYNC_SERVERS, SYNC_LIMITS),
    "django-sync7": django("Django sync view, the default seven middlewares", "/plain/", "seven", SYNC_SERVERS, SYNC_LIMITS),
    "django-async4": django(
        "Django async view behind security, common, csrf, clickjacking", "/aplain/", "four", [*OURS, *ASGI_PEERS], [Limit(ASGI_PEERS, 0.1)]
    ),
    "django-async7": django("Django async view, the default seven middlewares", "/aplain/", "seven", [*OURS, *ASGI_PEERS], []),
    # Servers that start a thread for each request cannot keep connections; with CONN_MAX_AGE 600 they would only leak them.
    "django-query": django(
        "Django sync view with a query, the default seven middlewares, CONN_MAX_AGE 600 (uvicorn: 0)", "/query/", "seven", SYNC_SERVERS,
        [Limit(WSGI_PEERS, 1.2), Limit(["uvicorn"], 0.2)],
        env={"PG_MAX_AGE": "600"}, env_of={"uvicorn": {"PG_MAX_AGE": "0"}}, needs_postgres=True,
    ),
    "ws": Case(
        "WebSocket echo of 64 bytes", "apps:ws_echo", kind="ws", message=64,
        servers=[*OURS, *UVICORN_WS, "granian"], limits=[Limit([*UVICORN_WS, "granian"], 0.45), EPOLL],
    ),
    "ws-deflate": Case(
        "WebSocket echo of 1 KiB with permessage-deflate", "apps:ws_echo", kind="ws", message=1024, deflate=True,
        servers=[*OURS, *UVICORN_WS], limits=[Limit(UVICORN_WS, 0.7), EPOLL],
    ),
    "tls": Case(
        "plaintext over HTTPS, ECDSA P-256, kept connections", "apps:plain", servers=TLS, tls="ec", cipher=CLIENTS_CHOICE,
        limits=[Limit(["uvicorn"], 0.6), Limit(["granian"], 0.75), EPOLL],
    ),
    # 1.25: at least 0.8 of the peer's handshakes for the same CPU time.
    "handshakes": Case(
        "full TLS handshakes, ECDSA P-256", "apps:plain", servers=TLS, tls="ec", kind="handshakes", limits=[Limit(["granian"], 1.25), EPOLL]
    ),
    "handshakes-cipher": Case(
        "the same, by the peers' cipher suite", "apps:plain", servers=TLS, tls="ec", kind="handshakes", cipher=CLIENTS_CHOICE
    ),
    "handshakes-rsa": Case("full TLS handshakes, RSA 2048", "apps:plain", servers=TLS, tls="rsa", kind="handshakes"),
    "file": Case(
        "1 GiB of a file: static (nginx: sendfile), http.response.pathsend, wsgi.file_wrapper", "apps:path_send", "/static/big", kind="file",
        servers=FILES, wsgi="apps:file_wrapper", path_of={s: "/app/big" for s in FILES if not s.startswith(("nginx", "ringcorn-static"))},
        needs_files=True, limits=[Limit(["nginx"], 1.1, s) for s in FILES[1:]],
    ),
    "file-small": Case(
        "a static file of 4 KiB", "apps:plain", "/static/small", needs_files=True,
        servers=["nginx", "ringcorn-static", "ringcorn-static-epoll", "granian-static"],
    ),
    "crossing": Case("an empty job to a pool thread and back, in process", kind="crossing"),
    "gil": Case(
        "an async endpoint while 8 threads burn CPU in Python", "apps:burning", kind="gil",
        servers=[*OURS, "ringcorn-off", "uvicorn", "granian"],
        limits=[Limit(["uvicorn"], 0.25)],
    ),
    "memory": Case("memory of an idle kept connection, without the kernel's", "apps:plain", kind="memory", servers=TLS, most=2048),
    "memory-ws": Case("memory of an idle WebSocket, without the kernel's", "apps:ws_echo", kind="memory", servers=[*OURS, *UVICORN_WS, "granian"],
        message=64, most=4096,
    ),
}  # fmt: skip

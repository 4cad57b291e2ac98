"""prometheus_client's multiprocess mode: each worker writes files in PROMETHEUS_MULTIPROC_DIR, and hooks.worker_exit ends those that count only while
their process lives."""

from prometheus_client import Counter, Gauge, multiprocess

requests = Counter("app_requests", "requests")
workers = Gauge("app_workers", "workers that live", multiprocess_mode="livesum")
workers.set(1)


def worker_exit(worker):
    multiprocess.mark_process_dead(worker.pid)


async def app(scope, receive, send):
    requests.inc()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

"""What a worker says of itself on SIGUSR2."""

import os
import signal
import threading
import time


def test_report_harms_no_worker_whose_threads_run(server):
    """Sent while threads run Python at every depth, hundreds of times."""
    s = server("flask_app:app")
    first = s.workers()
    over = time.monotonic() + 3

    def load():
        with s.connect() as c:
            while time.monotonic() < over:
                assert c.get("/").status == 200

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    while time.monotonic() < over:
        os.kill(first[0], signal.SIGUSR2)
        time.sleep(0.005)
    for client in clients:
        client.join()
    assert s.workers() == first


def test_report_names_the_requests_in_hand(server):
    s = server("raw:app")
    with s.connect() as c:
        c.send(b"GET /slow?s=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.3)
        os.kill(s.workers()[0], signal.SIGUSR2)
        s.wait_log(r"in hand for \d+ s: GET /slow")
        assert c.response().status == 200

"""ringcorn.aio in a worker: files of requests, on the loop that serves them."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

import wire


@pytest.fixture
def s(server):
    return server("aio_files:app", shared=True)


def test_files_of_requests(s, tmp_path):
    path = tmp_path / "file"
    assert s.post(f"/write?path={path}", b"one\ntwo\n").text == "8"
    assert path.read_bytes() == b"one\ntwo\n"
    assert s.get(f"/read?path={path}").body == b"one\ntwo\n"
    assert s.get(f"/lines?path={path}").json() == ["one\n", "two\n"]
    assert s.get(f"/anyio?path={path}").body == b"BinaryFile one\ntwo\n"
    answer = s.get(f"/read?path={path}-none")
    assert (answer.status, answer.text) == (404, f"FileNotFoundError {path}-none")


def test_many_at_once(s, tmp_path):
    data = {i: os.urandom(10_000 * i) for i in range(20)}

    def one(i):
        path = tmp_path / str(i)
        assert s.post(f"/write?path={path}", data[i % 20]).text == str(len(data[i % 20]))
        return s.get(f"/read?path={path}").body == data[i % 20]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(100)))


def test_a_client_leaves_while_its_file_is_waited_for(s, tmp_path):
    """A FIFO whose other end is open and silent: the read is cancelled, and the descriptor is closed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    c = s.connect()
    c.send(wire.request("GET", f"/wait?path={fifo}"))
    wire.eventually(lambda: any(s.live(pid)["file_ops"] for pid in s.workers()), 10, "the worker reads")
    c.close()
    wire.eventually(lambda: not any(s.live(pid)["file_ops"] for pid in s.workers()), 10, "it does no longer")
    os.close(held)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_leaves_while_a_file_is_waited_for(server, tmp_path, signum):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    s = server("aio_files:app", "--graceful-timeout", "1s")
    c = s.connect(30)
    c.send(wire.request("GET", f"/wait?path={fifo}"))
    wire.eventually(lambda: any(s.live(pid)["file_ops"] for pid in s.workers()), 10, "the worker reads")
    s.send_signal(signum)
    assert s.wait_exit(20) == 0
    os.close(held)

"""ringcorn --shake SEED: what is served stays right, and a race that a server rarely shows is shown. The seeds are not replayed here: clients are real."""

import concurrent.futures
import re
import subprocess

import harness
import pytest
import wire

APP = '''
import asyncio

journal, lines, value = None, [], 0

async def body_of(receive):
    body, more, pieces = b"", True, 0
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        body, more, pieces = body + message["body"], message["more_body"], pieces + 1
    return body, pieces

async def count():
    global value, journal
    journal = journal or asyncio.Lock()
    old = value
    async with journal:  # free, but for an export that nobody makes here
        lines.append(old)
    value = old + 1

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    try:
        body, pieces = await body_of(receive)
    except ConnectionError:
        return
    if scope["path"] == "/add":
        await count()
    if scope["path"] == "/thread":
        body = await asyncio.to_thread(bytes.upper, body)
    if scope["path"] == "/sleep":
        await asyncio.sleep(0.01)
    if scope["path"] == "/value":
        body = b"%d" % value
    if scope["path"] == "/pieces":
        body = b"%d" % pieces
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for i in range(0, len(body), 5000):
        await send({"type": "http.response.body", "body": body[i:i + 5000], "more_body": True})
    await send({"type": "http.response.body"})
'''
SMOOTH = "order,awaits,hops,timers,io"  # nobody is hung up on


@pytest.fixture
def serve(server, tmp_path):
    (tmp_path / "shaken.py").write_text(APP)
    return lambda *args: server("shaken:app", "--app-dir", tmp_path, *args, app_dir=None)


def many(s, ask, clients=12):
    """ask(connection, number of the client) on connections at the same time; the results."""

    def one(number):
        with s.connect() as c:
            return ask(c, number)

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, range(clients)))


@pytest.mark.parametrize("seed", [1, 40, 150, 151, 152])
def test_answers_are_right(serve, seed):
    s = serve("--shake", f"{seed}:{SMOOTH}")
    s.wait_log(rf"warning: shake mode, seed {seed}:{SMOOTH} .*never for production")

    def ask(c, number):
        for i in range(6):
            body = b"%d " % i * (number * 700)
            assert c.request("POST", "/", body=body).body == body
            assert c.request("POST", "/thread", body=b"a" * number).body == b"A" * number
            assert c.request("GET", "/sleep").status == 200

    many(s, ask)
    pieces = sum(many(s, lambda c, _: [int(c.request("POST", "/pieces", body=b"x" * 3000).body) for _ in range(50)]), [])
    if seed >= 150:
        assert max(pieces) > 1, f"{len(pieces)} bodies came whole"


def lost(s):
    """Of 600 additions."""
    many(s, lambda c, _: [c.request("GET", "/add") for _ in range(50)])
    return 600 - int(s.get("/value").body)


def test_a_race_is_shown(serve):
    assert lost(serve()) == 0
    assert lost(serve("--shake", f"150:{SMOOTH}")) > 0


def test_clients_are_hung_up_on(serve):
    s = serve("--shake", "150:drops")

    def ask(c, _):
        answers = 0
        try:
            for _ in range(200):
                answers += c.request("POST", "/", body=b"x" * 100).body == b"x" * 100
        except (ConnectionError, wire.Closed) as e:
            return answers, type(e).__name__
        return answers, None

    results = many(s, ask)
    assert any(error for _, error in results) and sum(answers for answers, _ in results) > 0
    assert s.process.poll() is None


@pytest.mark.parametrize("seed", ["x", "17:oder", "-1"])
def test_what_is_no_seed_is_refused(seed):
    done = subprocess.run([harness.BIN, f"--shake={seed}", "raw:app"], capture_output=True, text=True)
    assert done.returncode == 2 and re.search(r"ringcorn: --shake: .*is no seed: a number .*order, awaits, hops, timers, io, drops, tasks", done.stderr)


def test_one_worker():
    done = subprocess.run([harness.BIN, "--shake=1", "--workers=2", "raw:app"], capture_output=True, text=True, env=harness.environment())
    assert done.returncode == 2 and "shake has one worker" in done.stderr
    done = subprocess.run([harness.BIN, "--shake=1", "--workers=auto", "--print-config", "raw:app"], capture_output=True, text=True, env=harness.environment())
    assert done.returncode == 0 and re.search(r"^workers: 1\b", done.stdout, re.M) and re.search(r"^shake: ", done.stdout, re.M)

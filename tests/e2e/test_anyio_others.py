"""Frameworks that do not use AnyIO for their synchronous views: Quart's go to the loop's executor, Flask's (through asgiref) to a request's
own thread."""

from test_anyio_threads import drive


def test_quart(server):
    s = server("other_threads:quart", "--sync-executor-threads", 5)
    s.allow_descriptors(4)
    statuses, answers = drive(s, [f"/?user={n}" for n in range(200)], 16)
    assert statuses == {200: 200}
    threads = set()
    for target, r in answers.items():
        found = r.json()
        threads.add(found.pop("thread"))
        assert found == {"user": target[7:], "g": target[7:], "path": "/"}
    assert all(name.startswith("ringcorn-executor") for name in threads) and len(threads) <= 5
    assert s.get("/async?user=1").json()["thread"] == "MainThread"


def test_quart_streams_from_a_sync_generator(server):
    s = server("other_threads:quart")
    s.allow_descriptors(4)
    lines = s.get("/stream?user=7").text.splitlines()
    assert [line.split()[:2] for line in lines] == [[str(i), "7"] for i in range(20)]
    assert all(line.split()[2].startswith("ringcorn-executor") for line in lines)


def test_flask_through_asgiref(server):
    s = server("other_threads:flask", "--sync-threads", 5)
    s.allow_descriptors(4)
    statuses, answers = drive(s, [f"/?user={n}" for n in range(200)], 16)
    assert statuses == {200: 200}
    threads = set()
    for target, r in answers.items():
        found = r.json()
        threads.add(found.pop("thread"))
        assert found == {"user": target[7:], "same": True}
    assert all(name.startswith("ringcorn-sync") for name in threads) and len(threads) <= 5

"""FastAPI's def endpoints and the validation of their results in one hop: fewer hops, and nothing else that could be seen."""

import re

import pytest

import wire
from test_anyio_threads import drive

APP = "fastapi_hop:app"


@pytest.fixture
def s(server):
    return server(APP)


def hops(r):
    return int(dict(r.headers)["x-hops"])


def test_the_first_request_of_a_route_goes_the_stock_way_and_others_go_once(s):
    answers = [s.get(f"/item/{n}") for n in range(5)]
    assert [hops(r) for r in answers] == [2, 1, 1, 1, 1]
    for n, r in enumerate(answers):
        found = r.json()
        assert found["n"] == n
        # The validation runs on the thread of the endpoint and does not see what that has set.
        assert re.fullmatch(r"(\d+) \1 as the loop has it", found["seen"])


def test_with_threads_of_its_own_anyio_is_left_alone(server):
    s = server(APP, "--anyio-threads", "stock")
    assert [hops(s.get("/item/1")) for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/row/7", [2, 1, 1]),  # attributes are read on a thread, as ever
        ("/free/7", [1, 1, 1]),  # nothing to validate
        ("/async/7", [0, 0, 0]),
        ("/once/7", [2, 1, 1]),
        ("/below/once/7", [2, 1, 1]),
        ("/other/below/once/7", [2, 1, 1]),
    ],
)
def test_how_often_a_route_goes_to_a_thread(s, path, expected):
    answers = [s.get(path) for _ in expected]
    assert [(r.status, r.json()["n"]) for r in answers] == [(200, 7)] * 3
    assert [hops(r) for r in answers] == expected


def test_one_function_behind_two_routes_is_validated_by_each(s):
    for n in range(4):
        assert s.get(f"/once/{n}").json() == {"n": n, "seen": ""}
        assert s.get(f"/twice/{n}").json() == {"n": 2 * n}
        assert s.get(f"/other/below/once/{n}").json()["n"] == n


def test_errors_of_the_validation_are_what_they_were(s):
    expect = [(1, 200, '{"n":1}'), (2, 200, '{"n":2}'), (3, 418, "handled: three is not to be had"), (5, 409, '{"detail":"five"}'), (2, 200, '{"n":2}')]
    for n, status, body in expect:
        r = s.get(f"/moody/{n}")
        assert (r.status, r.text) == (status, body)
    # Starlette answers 500 and raises it again, in a ring: a group's only member, whose context the group is. The client has gone by then.
    s.expect_errors("GET /moody/4: exception after the response had begun")
    assert s.get("/moody/4").status == 500
    assert s.get("/moody/6").json() == {"n": 6}


def test_an_endpoint_may_answer_itself(s):
    answers = [s.get(f"/either/{n}") for n in (0, 2, 1, 4, 3)]
    assert [r.text for r in answers][2:5:2] == ["odd", "odd"]
    assert [r.json()["n"] for r in (answers[0], answers[1], answers[3])] == [0, 2, 4]
    assert [hops(r) for r in answers] == [2, 1, 1, 1, 1]


def test_dependencies_and_background_tasks_share_the_thread(s):
    threads = []
    for n in range(3):
        found = s.get(f"/whole/{n}").json()
        assert found["n"] == n
        threads.append(int(found["seen"].split()[0]))
    wire.eventually(lambda: s.get("/background").json() == threads, 20, "the background tasks, each on the thread of its request")


def warm(s, path):
    for n in range(12):
        assert s.get(f"{path}/{n % 3}").status == 200


@pytest.mark.parametrize("path", ["/alone", "/alone/validated"])
def test_what_comes_after_a_route_s_only_call_finds_its_thread(s, path):
    """Exception handlers, background tasks: each is seen only after the route was taken for one with a single call."""
    warm(s, path)
    if path == "/alone":
        assert s.get("/alone/77?how=raise").text == "True"
    else:
        assert s.get("/alone/validated/8").text == "True"
    for _ in range(3):
        assert s.get(f"{path}/9?how=background").text == "later"
    wire.eventually(lambda: s.get("/background").json() == [True] * 3, 20, "the background tasks, each on its endpoint's thread")


def test_what_an_endpoint_returns_is_left_alone(s):
    """Only a response's background tasks are asked for."""
    for n in range(12):
        r = s.get(f"/scene/{n}")
        assert (r.status, r.json()) == (200, {"n": n})


def test_a_route_that_calls_again_is_not_taken_for_alone_any_more(s):
    warm(s, "/alone")
    s.get("/alone/1?again=1")  # whichever thread is free
    statuses, answers = drive(s, [f"/alone/{n}?again=1&how=sleep" for n in range(60)], 16)
    assert statuses == {200: 60}
    assert {dict(r.headers)["x-again"] for r in answers.values()} == {"True"}


def test_endpoints_that_wait_run_side_by_side(s):
    """Though a thread takes one after the other where they compute."""
    warm(s, "/alone")
    statuses, answers = drive(s, [f"/alone/{n}?how=sleep" for n in range(160)], 40)
    assert statuses == {200: 160}
    assert max(r.json()["at once"] for r in answers.values()) > 20


def test_many_at_once_get_each_its_own(s):
    targets = [f"/{kind}/{n}" for n in range(60) for kind in ("item", "row", "once", "twice", "free", "whole")]
    statuses, answers = drive(s, targets, 32)
    assert statuses == {200: len(targets)}
    for target, r in answers.items():
        _, kind, n = target.split("/")
        assert r.json()["n"] == int(n) * (2 if kind == "twice" else 1)

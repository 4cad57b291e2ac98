"""Short versions of some stress scenarios (tests/stress), through the same code."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stress"))

import behind_nginx  # noqa: E402
import blocks  # noqa: E402
import cancel  # noqa: E402
import disconnects  # noqa: E402
import kill  # noqa: E402
import many_websockets  # noqa: E402
import operations  # noqa: E402
import reload  # noqa: E402
import upgrade  # noqa: E402
import ws_reload  # noqa: E402

pytestmark = pytest.mark.alone


def test_reload_under_load_fails_no_request(usable_io):
    print(reload.scenario(usable_io, seconds=5))


def test_another_program_under_load_fails_no_request(usable_io):
    print(upgrade.scenario(usable_io))


def test_another_program_on_a_unix_socket_under_load_fails_no_request(usable_io):
    print(upgrade.over_unix(usable_io, times=1))


def test_killed_worker_takes_only_its_own_requests_along(usable_io):
    print(kill.scenario(usable_io, seconds=5))


def test_whatever_an_operator_does_nothing_is_lost_and_all_adds_up(usable_io):
    print(operations.scenario(usable_io, seconds=4))


def test_websockets_in_a_storm_of_reloads_lose_and_double_nothing(usable_io):
    print(ws_reload.scenario(usable_io, seconds=5, clients=100))


def test_idle_websockets_are_small_and_hear_every_broadcast_once(usable_io):
    print(many_websockets.scenario(usable_io, sockets=3000, seconds=3, peer=False))


def test_reload_behind_nginx_fails_no_request(usable_io):
    print(behind_nginx.reload(usable_io, seconds=20))


def test_killed_worker_behind_nginx_takes_only_its_own_requests_along(usable_io):
    print(behind_nginx.killed(usable_io, seconds=6))


def test_what_is_said_of_blocked_loops_is_right(usable_io):
    print(blocks.scenario(usable_io, blocks=200))


def test_clients_that_leave_in_the_middle_of_queries_leave_every_pool_whole(usable_io):
    print(disconnects.scenario(usable_io, disconnects=48))


def test_who_leaves_is_cancelled_in_the_database_and_nobody_else(usable_io):
    print(cancel.scenario(usable_io, cancellations=200))

"""Short versions of two stress scenarios (tests/stress), through the same code."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stress"))

import kill  # noqa: E402
import reload  # noqa: E402

pytestmark = pytest.mark.alone


def test_reload_under_load_fails_no_request(usable_io):
    print(reload.scenario(usable_io, seconds=5))


def test_killed_worker_takes_only_its_own_requests_along(usable_io):
    print(kill.scenario(usable_io, seconds=5))

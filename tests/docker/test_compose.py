"""docker/compose.yaml: the whole scene in containers, visited by a real browser from outside."""

import os

import pytest

import chromium
import project
import tour
from conftest import IMAGE, build, stand_in
from ports import free_port

GUESTBOOK = "guestbook-test"


@pytest.fixture
def scene(image):
    build(GUESTBOOK, "docker/example/Dockerfile", "--build-arg", f"RINGCORN={IMAGE}")
    variables = {"SECRET_KEY": "an example's key, of no value", "POSTGRES_PASSWORD": "guestbook", "PORT": free_port()}
    one = project.Project(f"ringcorn-test-{os.getpid()}", variables, {"guestbook": GUESTBOOK})
    for name in {service["image"] for service in one.services.values()} - {"guestbook"}:
        stand_in(name)
    one.port = variables["PORT"]
    yield one
    one.down()
    assert not one.left()


def test_the_scene(scene, tmp_path):
    scene.up()
    for service in ("web", "postgres", "redis"):
        assert scene.is_healthy(service)
    assert scene.state("migrate", "ExitCode") == scene.state("collectstatic", "ExitCode") == "0"
    scene.run(
        "web", ".venv/bin/python", "manage.py", "createsuperuser", "--noinput", "--username", "admin", "--email", "", DJANGO_SUPERUSER_PASSWORD="admin"
    )
    with chromium.Chromium() as browser:
        tour.tour(browser, f"http://127.0.0.1:{scene.port}", "admin", "admin", tmp_path / "shots")
    assert scene.run("redis", "redis-cli", "dbsize").strip() != "0", "sessions are there"
    assert scene.run("postgres", "psql", "-U", "guestbook", "-tAc", "SELECT count(*) FROM guestbook_entry").strip() == "3"
    assert "login.png" in scene.run("nginx", "ls", "/srv/guestbook/media/pictures")
    log = scene.log("web")
    assert "listening on unix:/run/ringcorn/app.sock" in log and "Traceback" not in log and "] error" not in log, log
    # The image's own log is nginx's to write, and what it passed on came from Ringcorn's socket.
    assert '"GET /live/ HTTP/1.1" 101' in scene.log("nginx")
    codes = scene.stop()
    assert codes["web"] == 0 and "stopped" in scene.log("web"), codes
    assert codes["postgres"] == codes["redis"] == codes["nginx"] == 0, codes

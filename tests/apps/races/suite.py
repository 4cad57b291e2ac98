"""The tests of both frameworks' projects, as their owners would write them. What is run, and that those of the projects with a race fail, is
e2e/test_shake_races.py's."""

import os
import sys

import pytest

from ringcorn import shake

SEEDS = 200
mended = pytest.mark.parametrize("mended", [False, True], ids=["race", "mended"])
shaken = pytest.mark.ringcorn_shake(seeds=SEEDS)


@mended
@shaken
async def test_fastapi_counter(mended):
    import fastapi_races

    async with shake.Client(fastapi_races.counter(mended)) as client:
        await shake.together(client.post("/add"), client.post("/add"))
        assert (await client.get("/")).json() == {"value": 2}


@mended
@shaken
async def test_fastapi_sign_up(mended):
    import fastapi_races

    app = fastapi_races.sign_up(mended)
    with app.state.folder:
        async with shake.Client(app) as client:
            answers = await shake.together(client.post("/sign-up/ann"), client.post("/sign-up/ann"))
            assert sorted(answer.status for answer in answers) == [201, 409]
            assert (await client.get("/accounts")).json() == ["ann"]


@mended
@shaken
async def test_fastapi_mail(mended):
    import fastapi_races

    async with shake.Client(fastapi_races.mail(mended)) as client:
        await shake.together(client.post("/sign-up/ann", drops=True), client.post("/sign-up/bob", drops=True))
        await client.wait()
        await client.post("/deliver")
        assert (await client.get("/lost")).json() == []


@pytest.fixture(scope="session")
def django_project(tmp_path_factory):
    if "django_races" in sys.modules:  # a process may run the suite again
        return sys.modules["django_races"]
    os.environ["RACES_DB"] = str(tmp_path_factory.mktemp("races") / "races.db")
    import django_races

    django_races.make_tables()
    django_races.connection.close()
    return django_races


async def django_client(project):
    await project.sync_to_async(project.reset)()
    return shake.Client(project.application)


@mended
@shaken
async def test_django_counter(django_project, mended):
    async with await django_client(django_project) as client:
        path = "/mended/add" if mended else "/add"
        await shake.together(client.post(path), client.post(path))
        assert (await client.get("/")).json() == {"value": 2}


@mended
@shaken
async def test_django_sign_up(django_project, mended):
    async with await django_client(django_project) as client:
        path = "/mended/sign-up/ann" if mended else "/sign-up/ann"
        answers = await shake.together(client.get(path), client.get(path))
        assert sorted(answer.status for answer in answers) == [201, 409]
        assert (await client.get("/accounts")).json() == ["ann"]


@mended
@shaken
async def test_django_mail(django_project, mended):
    async with await django_client(django_project) as client:
        path = "/mended/welcome/ann" if mended else "/welcome/ann"
        await shake.together(client.get(path, drops=True), client.get("/"))
        await client.wait()
        await client.get("/deliver")
        assert (await client.get("/lost")).json() == []

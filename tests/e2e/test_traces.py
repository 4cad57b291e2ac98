"""traceparent on its way to the application, and OpenTelemetry's server spans (otel.enabled)."""

import json

import harness
import pytest
import wire

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = [("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "rojo=00f067aa0ba902b7")]
APPS = {"asgi": "traced:app", "wsgi": "traced:wsgi", "django": "traced:django()"}


def spans(s, n=1):
    """The finished ones, oldest first, without those of /spans; a span ends after its answer."""

    def look():
        found = [span for span in json.loads(s.get("/spans").body) if span["attributes"].get("url.path") != "/spans"]
        return found if len(found) >= n else None

    return wire.eventually(look, 10 * harness.SLOW, f"{n} spans")


@pytest.mark.parametrize(("kind", "path"), [("asgi", "/"), ("wsgi", "/"), ("django", "/items/1/"), ("django", "/aitems/1/")])
def test_the_headers_reach_the_application_unchanged(server, kind, path):
    s = server(APPS[kind], "--otel-enabled", "off", shared=True)
    for _ in range(3):  # the second one goes to Django's view directly
        headers = json.loads(s.get(path, HEADERS).body)[1]
        assert headers["traceparent"] == HEADERS[0][1] and headers["tracestate"] == HEADERS[1][1]
    assert json.loads(s.get("/spans").body) == []


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_span(server, kind):
    s = server(APPS[kind])
    s.wait_log("OpenTelemetry: server spans by TracerProvider")
    inside, _ = json.loads(s.get("/a%20b?secret=1", [*HEADERS, ("User-Agent", "curl/8"), ("Host", "example.org:8080")]).body)
    (span,) = spans(s)
    assert span["context"]["trace_id"] == f"0x{TRACE}" and span["parent_id"] == f"0x{PARENT}" and span["context"]["span_id"] == f"0x{inside}"
    assert "rojo" in str(span["context"]["trace_state"])
    assert span["kind"] == "SpanKind.SERVER" and span["name"] == "GET" and span["status"]["status_code"] == "UNSET"
    assert isinstance(span["attributes"].pop("client.port"), int)
    assert span["attributes"] == {
        "http.request.method": "GET", "url.path": "/a%20b", "url.scheme": "http", "http.response.status_code": 200, "server.address": "example.org",
        "server.port": 8080, "client.address": "127.0.0.1", "user_agent.original": "curl/8", "network.protocol.version": "1.1",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_errors(server, kind):
    s = server(APPS[kind])
    s.expect_errors("GET /raise: exception")
    assert s.get("/raise").status == 500 and s.get("/500").status == 503
    raised, answered = spans(s, 2)
    assert raised["status"]["status_code"] == answered["status"]["status_code"] == "ERROR"
    assert raised["attributes"]["error.type"] == "KeyError" and raised["events"][0]["attributes"]["exception.type"] == "KeyError"
    assert answered["attributes"]["error.type"] == "503" and answered["attributes"]["http.response.status_code"] == 503


def test_methods_that_are_not_known(server):
    s = server(APPS["asgi"])
    s.request("PROPFIND", "/")
    (span,) = spans(s)
    assert span["name"] == "HTTP"
    assert span["attributes"]["http.request.method"] == "_OTHER" and span["attributes"]["http.request.method_original"] == "PROPFIND"


def test_threads_and_pieces_are_inside(server):
    s, w = server(APPS["asgi"]), server(APPS["wsgi"])
    for one, path in ((s, "/thread"), (w, "/pieces")):
        inside = json.loads(one.get(path).body)[0]
        assert spans(one)[0]["context"]["span_id"] == f"0x{inside}"


def test_fastapi_routes(server):
    """Newer ones make a span of their own: on, asked for, makes both."""
    s = server("traced:fastapi()", "--otel-enabled", "on")
    assert [s.get("/items/7").status, s.get("/items/7").status] == [200, 200]
    assert s.get("/items/word").status == 422 and s.get("/nowhere").status == 404
    _, good, bad, lost = [span for span in spans(s, 4) if span["kind"] == "SpanKind.SERVER" and "client.port" in span["attributes"]]
    assert good["name"] == bad["name"] == "GET /items/{number}" and good["attributes"]["http.route"] == "/items/{number}"
    assert lost["name"] == "GET" and "http.route" not in lost["attributes"]


def test_auto_leaves_it_to_who_does_it(server, tmp_path):
    folder = tmp_path / "opentelemetry_instrumentation_stand_in.py"
    folder.write_text("import sys, types\nsys.modules['opentelemetry.instrumentation.asgi'] = types.ModuleType('stand_in')\n")
    s = server(APPS["asgi"], "--import-first", folder.stem, "--python-path", tmp_path)
    s.wait_log("OpenTelemetry: server spans are left to opentelemetry.instrumentation.asgi; otel.enabled: on makes them here too")
    assert json.loads(s.get("/").body)[0] == "0" * 16 and json.loads(s.get("/spans").body) == []


@pytest.mark.parametrize("path", ["/items/1/", "/aitems/1/", "/astream/", "/astreamed/"])
def test_django_views(server, path):
    """The first request goes over the loop; those to sync views after it go to their threads directly."""
    s = server(APPS["django"])
    inside = [json.loads(s.get(path, HEADERS).body)[0] for _ in range(4)]
    found = spans(s, 4)
    assert sorted(span["context"]["span_id"] for span in found) == sorted(f"0x{one}" for one in inside)
    route = path.replace("1", "<int:number>")
    for span in found:
        assert span["parent_id"] == f"0x{PARENT}" and span["name"] == f"GET {route}" and span["attributes"]["http.response.status_code"] == 200


def test_django_errors(server):
    s = server(APPS["django"])
    s.expect_errors("Traceback")
    for _ in range(3):
        assert s.get("/broken/").status == 500
    assert [span["status"]["status_code"] for span in spans(s, 3)] == ["ERROR"] * 3


def test_auto_is_off_without_a_provider(server):
    s = server(APPS["asgi"], env={"TEST_NO_PROVIDER": 1})
    assert json.loads(s.get("/").body)[0] == "0" * 16 and "OpenTelemetry" not in s.log


def test_on_asks_for_the_package(tmp_path):
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not here')")
    (tmp_path / "plain.py").write_text("async def app(scope, receive, send): raise RuntimeError")
    done = harness.run("--app-dir", tmp_path, "--bind", "127.0.0.1:0", "--otel-enabled", "on", "plain:app")
    assert done.returncode == 3 and "otel.enabled: on needs the package opentelemetry-sdk" in done.stderr

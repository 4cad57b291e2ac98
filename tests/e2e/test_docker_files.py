"""The files below docker/ agree with the program's defaults and with each other. Whether they work is `make test-docker`'s."""

import json
import re
import subprocess
import sys

import yaml

import harness

DOCKER = harness.ROOT / "docker"
DEFAULTS = yaml.safe_load((DOCKER / "defaults.yaml").read_text())


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def program_defaults():
    return yaml.safe_load(harness.run("--print-config", "raw:app").stdout)


def test_defaults_are_a_configuration(tmp_path):
    result = harness.run("--print-config", cwd=tmp_path, env={"RINGCORN_DEFAULTS": DOCKER / "defaults.yaml"})
    assert result.returncode == 0, result.stderr
    printed = yaml.safe_load(result.stdout)
    assert printed["bind"] == ["0.0.0.0:8000"] and printed["health"]["bind"] == "0.0.0.0:8001"


def test_kubernetes_gives_the_time_that_the_server_takes():
    deployment, service = yaml.safe_load_all((DOCKER / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    timeouts = program_defaults()["timeouts"]
    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pre_stop + seconds(timeouts["graceful"]) + 3
    startup = container["startupProbe"]
    # "2m"
    start = timeouts["startup"]
    start = int(start[:-1]) * (60 if start.endswith("m") else 1)
    assert startup["periodSeconds"] * startup["failureThreshold"] > start
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"0.0.0.0:{ports['http']}" == DEFAULTS["bind"] and f"0.0.0.0:{ports['health']}" == DEFAULTS["health"]["bind"]
    for probe, path in (("startupProbe", "ready"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
        assert container[probe]["httpGet"] == {"path": DEFAULTS["health"][path], "port": "health"}
    assert pod["securityContext"]["runAsUser"] == 10001
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] == "http"


def test_compose_fits_its_configuration():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"nginx", "web", "migrate", "collectstatic", "postgres", "redis"}
    sample = yaml.safe_load((harness.ROOT / "conf/examples/django-nginx-docker.yaml").read_text())
    web = services["web"]
    assert seconds(web["stop_grace_period"]) > seconds(sample["timeouts"]["graceful"]) + 3
    socket = sample["bind"][0].removeprefix("unix:")
    nginx = (DOCKER / "example/nginx.conf").read_text()
    assert f"server unix:{socket} " in nginx and "client_max_body_size 20m;" in nginx and sample["limits"]["body"] == "20MiB"
    assert any(volume.endswith(":/run/ringcorn") for volume in services["nginx"]["volumes"])
    assert (DOCKER / web["security_opt"][0].removeprefix("seccomp=")).is_file()
    for service in services.values():
        for name in service.get("depends_on", {}):
            assert name in services
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DOCKER / source).exists()
    asked = set(re.findall(r'os\.environ\["(\w+)"\]', (DOCKER / "example/settings.py").read_text()))
    of_image = set(re.findall(r"(\w+)=", re.search(r"^ENV (.*)$", (DOCKER / "example/Dockerfile").read_text(), re.M)[1]))
    assert asked <= set(web["environment"]) | of_image and set(web["environment"]) <= asked
    # What nginx takes from volumes is where the application puts it.
    for name in ("static", "media"):
        there = f"/srv/guestbook/{name}"
        assert f"alias {there}/;" in nginx and f"{name}:{there}:ro" in services["nginx"]["volumes"]
        assert f"{name}:{there}" in services["web" if name == "media" else "collectstatic"]["volumes"]


def test_seccomp_is_the_default_and_three_calls(tmp_path):
    default = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["accept", "read"], "action": "SCMP_ACT_ALLOW", "args": []},
            {"names": ["io_uring_setup", "bpf"], "action": "SCMP_ACT_ERRNO", "args": []},
            {"names": ["io_uring_enter"], "action": "SCMP_ACT_ERRNO", "args": []},
        ],
    }
    (tmp_path / "default.json").write_text(json.dumps(default))
    made = subprocess.run([sys.executable, DOCKER / "seccomp.py", tmp_path / "default.json"], capture_output=True, text=True, check=True).stdout
    rules = json.loads(made)["syscalls"]
    assert [rule["names"] for rule in rules[:-1]] == [["accept", "read"], ["bpf"]]
    ring = rules[-1]
    assert ring["names"] == ["io_uring_enter", "io_uring_register", "io_uring_setup"] and ring["action"] == "SCMP_ACT_ALLOW"
    kept = json.loads((DOCKER / "seccomp.json").read_text())
    assert kept["defaultAction"] == "SCMP_ACT_ERRNO" and kept["syscalls"][-1] == ring
    allowed = {name for rule in kept["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert {"epoll_wait", "accept4", "clone3", "openat"} <= allowed
    others = [name for rule in kept["syscalls"][:-1] for name in rule["names"]]
    assert not [name for name in others if name.startswith("io_uring")]
    assert "bpf" in others, "what the default profile keeps for capabilities is kept for them"

"""docker/compose.yaml by podman: what `docker compose up` and `down --volumes` do with what stands in that file. A key that is not known
here is an error: nothing in the file goes untested.

podman's own health checks want systemd; here they are asked for.
"""

import json
import re
import shlex

import compose
import wire
from conftest import podman

KNOWN = {
    "build", "image", "environment", "ports", "volumes", "depends_on", "read_only", "tmpfs", "cap_drop", "security_opt", "stop_grace_period",
    "deploy", "entrypoint", "command", "healthcheck",
}  # fmt: skip


class Project:
    def __init__(self, name, variables, images):
        """images: what is run in place of an image that compose.yaml would build."""
        self.name, self.images, self.addresses, self.started = name, images, {}, []
        self.services = compose.read(variables)
        for service, text in self.services.items():
            assert set(text) <= KNOWN, f"{service}: {set(text) - KNOWN} is not known here"

    def container(self, service):
        return f"{self.name}-{service}"

    # -- up

    def up(self):
        podman("network", "create", "--label", f"project={self.name}", self.name)
        for service in compose.in_order(self.services):
            for other, how in self.services[service].get("depends_on", {}).items():
                self.wait(other, how["condition"])
            self.start(service)
        return self

    def wait(self, service, condition):
        if condition == "service_completed_successfully":
            code = podman("wait", self.container(service), timeout=120).stdout.strip()
            assert code == "0", f"{service} ended with {code}\n{self.log(service)}"
        else:
            assert condition == "service_healthy"
            wire.eventually(lambda: self.is_healthy(service), 120, f"{service} is healthy")

    def is_healthy(self, service):
        assert self.state(service, "Running") == "true", f"{service} ended:\n{self.log(service)}"
        return podman("healthcheck", "run", self.container(service), check=False).returncode == 0

    def start(self, service):
        self.started.append(service)
        podman(*self.command(service), timeout=120)
        found = json.loads(podman("inspect", self.container(service)).stdout)[0]["NetworkSettings"]["Networks"][self.name]
        self.addresses[service] = found["IPAddress"]

    def command(self, service):
        text = self.services[service]
        words = ["run", "-d", "--name", self.container(service), "--label", f"project={self.name}", "--network", self.name]
        for other, address in self.addresses.items():
            if address:  # one that has ended has none
                words += ["--add-host", f"{other}:{address}"]
        for name, value in text.get("environment", {}).items():
            words += ["-e", f"{name}={value}"]
        for port in text.get("ports", []):
            words += ["-p", port]
        for volume in text.get("volumes", []):
            words += ["-v", self.volume(volume)]
        if text.get("read_only"):
            words += ["--read-only"]
        for path in text.get("tmpfs", []):
            words += ["--tmpfs", path]
        for right in text.get("cap_drop", []):
            words += ["--cap-drop", right]
        for option in text.get("security_opt", []):
            words += ["--security-opt", re.sub(r"^seccomp=\.", f"seccomp={compose.FOLDER}", option).replace(":true", "")]
        if "stop_grace_period" in text:
            words += ["--stop-timeout", text["stop_grace_period"].removesuffix("s")]
        limits = text.get("deploy", {}).get("resources", {}).get("limits", {})
        for name, value in limits.items():
            words += [f"--{name}", value]
        if "healthcheck" in text:
            kind, *test = text["healthcheck"]["test"]
            assert kind == "CMD"  # podman before 4.4 takes nothing but a line for a shell
            words += ["--health-cmd", shlex.join(test)]
        if "entrypoint" in text:
            words += ["--entrypoint", json.dumps(text["entrypoint"])]
        return [*words, self.images.get(text["image"], text["image"]), *text.get("command", [])]

    def volume(self, text):
        source, rest = text.split(":", 1)
        return f"{compose.FOLDER / source}:{rest}" if source.startswith(".") else f"{self.name}_{source}:{rest}"

    # -- while it is up

    def state(self, service, what):
        return podman("inspect", "--format", "{{.State.%s}}" % what, self.container(service)).stdout.strip()

    def log(self, service):
        done = podman("logs", self.container(service))
        return done.stdout + done.stderr

    def run(self, service, *command, **env):
        variables = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
        return podman("exec", *variables, self.container(service), *command).stdout

    # -- down

    def stop(self):
        """In the order in which nobody asks somebody who has gone; exit codes, by service."""
        for service in reversed(self.started):
            podman("stop", self.container(service), timeout=90)
        return {service: int(self.state(service, "ExitCode")) for service in self.started}

    def down(self):
        for service in reversed(self.started):
            podman("rm", "-f", "-t", "0", self.container(service), check=False)
        for volume in self.volumes():
            podman("volume", "rm", volume)
        podman("network", "rm", "-f", self.name)

    def volumes(self):
        names = podman("volume", "ls", "-q").stdout.split()
        return [name for name in names if name.startswith(f"{self.name}_")]

    def left(self):
        return [
            *podman("ps", "-a", "-q", "--filter", f"label=project={self.name}").stdout.split(),
            *self.volumes(),
            *podman("network", "ls", "-q", "--filter", f"label=project={self.name}").stdout.split(),
        ]

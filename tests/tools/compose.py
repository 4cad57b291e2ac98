"""What docker/compose.yaml says.

    services = read({"SECRET_KEY": "..."})      # name -> what stands there, variables filled in
    for name in in_order(services): ...         # each behind those that it depends on
"""

import re
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "docker"


def fill(text, variables):
    """${NAME}, ${NAME:-default} and ${NAME:?what to do} of a string."""

    def value(match):
        name, kind, more = match["name"], match["kind"], match["more"]
        if name in variables:
            return str(variables[name])
        if kind == ":-":
            return more
        raise KeyError(f"{name}: {more or 'is not set'}")

    return re.sub(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<more>[^}]*))?\}", value, text)


def filled(value, variables):
    if isinstance(value, dict):
        return {key: filled(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, variables) for one in value]
    return fill(value, variables) if isinstance(value, str) else value


def read(variables):
    return filled(yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"], variables)


def in_order(services):
    done = []

    def take(name):
        for other in services[name].get("depends_on", {}):
            take(other)
        if name not in done:
            done.append(name)

    for name in services:
        take(name)
    return done

"""Asks a server for its metrics, as Prometheus does."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


class Metrics:
    """One answer: samples by name, and by labels."""

    def __init__(self, text, is_open=False):
        self.text = text
        self.families = {f.name: f for f in (parse_open if is_open else parse_text)(text)}
        self.samples = {}
        for family in self.families.values():
            for s in family.samples:
                key = (s.name, tuple(sorted(s.labels.items())))
                assert key not in self.samples, f"twice: {key}"
                self.samples[key] = s.value

    def sum(self, name, **labels):
        """Of all samples of that name (without "ringcorn_") that have these labels."""
        found = [v for (n, have), v in self.samples.items() if n == f"ringcorn_{name}" and labels.items() <= dict(have).items()]
        assert found or any(n == f"ringcorn_{name}" for n, _ in self.samples), f"no {name}"
        return sum(found)

    def counters(self):
        """What may never fall."""
        kinds = {"counter", "histogram"}
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for f in self.families.values()
            if f.type in kinds
            for s in f.samples
            if not s.name.endswith("_created")
        }


def address(server):
    """Of metrics.bind."""
    host, port = server.wait_log(r"metrics: \S+ on http://([\d.]+):(\d+)").groups()
    return host, int(port)


def scrape(server, at=None, is_open=False, path="/metrics"):
    headers = [("Accept", OPENMETRICS)] if is_open else []
    answer = server.get(path, headers, address=at or address(server))
    assert answer.status == 200, answer
    expected = "application/openmetrics-text; version=1.0.0" if is_open else "text/plain; version=0.0.4"
    assert answer.get("content-type") == f"{expected}; charset=utf-8"
    return Metrics(answer.text, is_open)

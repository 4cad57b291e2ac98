"""ringcornctl: the same program by another name."""

import subprocess

import harness

CTL = harness.BIN.with_name("ringcornctl")


def ctl(*args, cwd=None):
    return subprocess.run([str(CTL), *map(str, args)], capture_output=True, text=True, timeout=30, env=harness.environment(), cwd=cwd)


def test_upstream_of_every_kind_of_address(tmp_path):
    (tmp_path / "ringcorn.yaml").write_text(
        "bind: ['unix:run/app-{slot}.sock', ':8000', '[::]:8001', '127.0.0.2:8002', ':0', 'fd://9', 'unix:/a b.sock']\nworkers: 2\n"
    )
    r = ctl("nginx-upstream", cwd=tmp_path)
    assert (r.returncode, r.stderr) == (0, "")
    assert r.stdout.splitlines() == [
        "upstream ringcorn {",
        f"    server unix:{tmp_path}/run/app-0.sock max_fails=0;",
        f"    server unix:{tmp_path}/run/app-1.sock max_fails=0;",
        "    server 127.0.0.1:8000 max_fails=0;",
        "    server [::1]:8001 max_fails=0;",
        "    server 127.0.0.2:8002 max_fails=0;",
        "    # :0: the port is chosen at start",
        "    # fd://9: whoever opened the socket knows its address",
        '    server "unix:/a b.sock" max_fails=0;',
        "    keepalive 32;",
        "}",
    ]


def test_upstream_keeps_connections_for_a_shorter_time(tmp_path):
    (tmp_path / "own.yaml").write_text("timeouts: {keep_alive: 10s}\n")
    assert "    keepalive_timeout 8000ms;" in ctl("nginx-upstream", "-c", tmp_path / "own.yaml").stdout.splitlines()
    assert "keepalive_timeout" not in ctl("nginx-upstream", "--keep-alive", "75").stdout


def test_options_are_those_of_the_server():
    assert "server unix:/run/x.sock" in ctl("nginx-upstream", "--uds", "/run/x.sock").stdout
    assert "# proxy.protocol is on" in ctl("nginx-upstream", "--proxy-protocol").stdout
    r = ctl("nginx-upstream", "--wrokers", "3")
    assert (r.returncode, r.stdout, r.stderr) == (2, "", "ringcorn: --wrokers: no such option; did you mean --workers?\n")


def test_what_it_does_not_know():
    assert ctl().returncode == 2
    assert ctl("--help").stdout.startswith("usage: ringcornctl COMMAND")
    r = ctl("dance")
    assert (r.returncode, r.stderr) == (2, "ringcorn: dance: no such command; ringcornctl --help lists all\n")

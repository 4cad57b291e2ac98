"""TLS: certificates and who gets which, keys, what is wrong with them at start, client certificates, stapling, tickets, replacement."""

import os
import shutil
import signal
import ssl
import subprocess
import time

import certs
import harness
import pytest
import wire
from certs import DAY
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

ROOT = certs.Authority()
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture
def issued(tmp_path):
    """issued(name, *names, **how) -> the paths of a certificate and its key."""

    def make(name, *names, password=None, authority=ROOT, **how):
        return authority.issue(*(names or ("localhost",)), **how).write(tmp_path, name, password)

    return make


def options(*pairs):
    """--certfile and --keyfile of each."""
    return [str(o) for cert, key in pairs for o in ("--certfile", cert, "--keyfile", key)]


def leaf(s, name="localhost", context=None, authority=ROOT):
    """The certificate that a client who asks for this name gets."""
    context = context or certs.client(authority)
    context.check_hostname = False
    with s.connect(tls=context, server_name=name) as c:
        return x509.load_der_x509_certificate(c.sock.getpeercert(True))


def names_in(cert):
    return cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


def started(server, *args, **kwargs):
    s = server("raw:app", *args, **kwargs)
    s.tls = certs.client(ROOT)
    return s


def both_ready(s):
    """Two workers; the baseline of what they hold is of both."""
    wire.eventually(lambda: s.log.count("is ready") == 2, 10 * harness.SLOW)
    s.settle()


def reloaded(s):
    """SIGHUP, until the old worker has gone."""
    since = len(s.err.lines)
    s.send_signal(signal.SIGHUP)
    s.wait_log("reloaded in", since=since)
    wire.eventually(lambda: len(s.workers()) == 1, 10 * harness.SLOW)


# ------------------------------------------------------------------ which certificate


def test_names_choose(server, issued):
    """Names are read from the certificates; a wildcard is one label; who asks for none of them gets the first."""
    s = started(
        server,
        *options(
            issued("one", "localhost", "one.test"), issued("two", "two.test", "*.two.test", number=1),
            issued("rsa", "old.test", kind="rsa"), issued("cn", "three.test", number=2),
        ),
    )  # fmt: skip
    for asked, got in [
        ("one.test", "one.test"), ("two.test", "two.test"), ("TWO.test", "two.test"), ("a.two.test", "*.two.test"),
        ("old.test", "old.test"), ("three.test", "three.test"),
    ]:  # fmt: skip
        assert got in names_in(leaf(s, asked)), asked
    for asked in ("b.a.two.test", "four.test", "two.test.x", "127.0.0.1"):
        assert "localhost" in names_in(leaf(s, asked)), asked


def test_rsa_and_ecdsa_for_the_same_names(server, issued):
    """Both in one: the client's abilities decide."""
    s = started(server, *options(issued("rsa", kind="rsa"), issued("ec")))
    for cipher, kind in [("ECDHE-RSA-AES128-GCM-SHA256", "RSA"), ("ECDHE-ECDSA-AES128-GCM-SHA256", "EC")]:
        context = certs.client(ROOT, V12, ciphers=cipher)
        assert kind in type(leaf(s, context=context).public_key()).__name__
        with s.connect(tls=context) as c:
            tls = c.get("/scope").json()["extensions"]["tls"]
            assert tls["server_cert"].split() == ssl.DER_cert_to_PEM_cert(c.sock.getpeercert(True)).split()


def test_chain_is_sent(server, issued):
    middle = certs.Authority("middle", above=ROOT, number=101)
    s = started(server, *options(issued("deep", authority=middle)))
    assert s.get("/hello").status == 200  # the client knows the root alone


def test_key_in_the_certificates_file(server, issued, tmp_path):
    cert, key = issued("one")
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    assert started(server, "--certfile", both).get("/hello").status == 200


@pytest.mark.parametrize("form", [serialization.PrivateFormat.TraditionalOpenSSL, serialization.PrivateFormat.PKCS8])
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_ordinary_keys(server, tmp_path, form, kind):
    one = ROOT.issue("localhost", kind=kind)
    cert, key = one.write(tmp_path, "one")
    key.write_bytes(one.key_pem(form=form))
    s = started(server, *options((cert, key)))
    assert s.get("/hello").status == 200


def test_password_file(server, issued, tmp_path):
    """One a line, tried in turn; neither key nor password is ever said."""
    passwords = tmp_path / "passwords"
    passwords.write_text("wrong one\nfirst secret\r\nsecond secret\n")
    s = started(
        server, *options(issued("one", password=b"first secret"), issued("two", "two.test", password=b"second secret", number=1)),
        "--tls-key-password-file", passwords, "--log-level", "debug",
    )  # fmt: skip
    assert s.get("/hello").status == 200
    assert "two.test" in names_in(leaf(s, "two.test"))
    s.stop()
    assert "secret" not in s.log and "PRIVATE" not in s.log


# ------------------------------------------------------------------ what is wrong is said


def refused(*args, code=1):
    done = harness.run(*args, "--bind", "127.0.0.1:0", "--app-dir", harness.APPS, "raw:app")
    assert done.returncode == code, done.stderr
    assert "PRIVATE KEY-----\n" not in done.stderr and "Traceback" not in done.stderr
    return done.stderr


def test_missing_files(issued, tmp_path):
    cert, key = issued("one")
    said = refused("--certfile", tmp_path / "no.pem", "--keyfile", tmp_path / "no.key")
    assert f"there is no file {tmp_path}/no.pem" in said and f"there is no file {tmp_path}/no.key" in said
    said = refused(*options((cert, key)), "--ssl-ca-certs", tmp_path / "ca.pem")
    assert "tls.client_ca: there is no file" in said


def test_key_of_another(issued):
    one, two = issued("one"), issued("two", number=1)
    said = refused(*options((one[0], two[1])))
    assert f"the key in {two[1]} does not belong to the (first) certificate in {one[0]}" in said


def test_chain_in_the_wrong_order(tmp_path):
    middle = certs.Authority("middle", above=ROOT, number=101)
    one = middle.issue("localhost")
    cert, key = one.write(tmp_path, "one")
    cert.write_bytes(middle.x509.public_bytes(serialization.Encoding.PEM) + one.x509.public_bytes(serialization.Encoding.PEM))
    assert "put the server's own certificate in front of its chain" in refused(*options((cert, key)))


@pytest.mark.parametrize(
    "text, says", [("", "no certificate in PEM"), ("hello", "no certificate in PEM"), ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is damaged")]
)
def test_no_certificate(issued, text, says):
    cert, key = issued("one")
    cert.write_text(text)
    assert says in refused(*options((cert, key)))


def test_no_key(issued):
    cert, key = issued("one")
    key.write_bytes(cert.read_bytes())
    assert f"there is no private key in PEM in {key}" in refused(*options((cert, key)))


def test_encrypted_keys(issued, tmp_path):
    pair = issued("one", password=b"right")
    assert "name a file with its password by tls.key_password_file" in refused(*options(pair))
    (tmp_path / "passwords").write_text("wrong\n")
    said = refused(*options(pair), "--tls-key-password-file", tmp_path / "passwords")
    assert "no password in tls.key_password_file opens" in said and "wrong" not in said


def test_ciphers_that_are_none(issued):
    assert "tls.ciphers: 'NONSENSE' names no cipher" in refused(*options(issued("one")), "--tls-ciphers", "NONSENSE")


def test_check_config_looks_too(issued):
    one, two = issued("one"), issued("two", number=1)
    assert "does not belong" in refused("--check-config", *options((one[0], two[1])))


def test_expired_certificate_warns(server, issued):
    s = started(server, *options(issued("old", ends=-DAY / 2)))
    assert "expired on" in s.log and "renew it" in s.log
    s.tls = certs.client()  # who does not look is served
    assert s.get("/hello").status == 200


def test_not_yet_valid_certificate_warns(server, issued):
    s = started(server, *options(issued("new", begins=DAY)))
    assert "is good from" in s.log
    s.tls = certs.client()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_key_is_read_before_privileges_go(server, issued, tmp_path):
    """Also one that is renewed later: the workers, who may not read it, are handed it."""
    check = [harness.BIN, "--check-config", "--app-dir", harness.APPS, "raw:app"]
    if subprocess.run(check, capture_output=True, user="nobody", env=harness.environment({"VIRTUAL_ENV": None}), cwd=tmp_path.root).returncode != 0:
        pytest.skip("nobody may not read this Python's library")
    cert, key = issued("one")
    key.chmod(0o600)
    app = tmp_path / "app"
    app.mkdir()
    for folder in (app, *app.parents[:3]):
        folder.chmod(0o755)
    shutil.copy(harness.APPS / "raw.py", app)
    s = started(
        server, *options((cert, key)), "--user", "nobody", "--tls-watch", "200ms", "--workers", "2", app_dir=app, env={"VIRTUAL_ENV": None}
    )  # fmt: skip
    both_ready(s)
    assert all(os.stat(f"/proc/{pid}").st_uid != 0 for pid in s.workers())
    issued("one", "localhost", "renewed.test")
    key.chmod(0o600)
    s.wait_log("files have changed; new connections get")
    wire.eventually(lambda: all("renewed.test" in names_in(leaf(s)) for _ in range(6)), 5)


# ------------------------------------------------------------------ client certificates


@pytest.fixture
def mtls(server, issued, tmp_path):
    """mtls(*options) -> a server that knows the clients' authority."""
    clients = certs.Authority("clients", number=102)

    def start(*args):
        return started(server, *options(issued("server")), "--ssl-ca-certs", clients.write(tmp_path, "clients"), *args)

    start.authority = clients
    start.issue = lambda name, **how: clients.issue(name, client=True, number=3, **how)
    start.show = lambda cert, version=None: certs.client(ROOT, version, cert.write(tmp_path, f"client-{time.monotonic_ns()}"))
    return start


def is_refused(s, context, why):
    """Under TLS 1.3 the client hears of it behind its own end of the handshake."""
    with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError, wire.Closed), match=why):
        with s.connect(tls=context) as c:
            c.get("/hello")


@pytest.mark.parametrize("version", [V12, V13])
def test_clients_must_show_a_certificate(mtls, version):
    s = mtls()  # client_ca alone means required
    good = mtls.show(mtls.issue("alice"), version)
    with s.connect(tls=good) as c:
        assert c.get("/hello").status == 200
    is_refused(s, certs.client(ROOT, version), "certificate required|handshake failure")
    strangers = certs.Authority("strangers", number=104)
    for bad, why in [
        (strangers.issue("mallory", client=True, number=3), "unknown ca"),
        (mtls.issue("old", ends=-DAY / 2), "expired"),
        (mtls.issue("early", begins=DAY), "bad certificate"),
        (mtls.authority.issue("server.test", number=3), "unsupported certificate|bad certificate|certificate unknown"),
    ]:
        is_refused(s, mtls.show(bad, version), why)
    s.wait_log(r"127\.0\.0\.1 is refused: client certificate: certificate has expired")
    with s.connect(tls=good) as c:
        assert c.get("/hello").status == 200
    s.tls = good


@pytest.mark.parametrize("version", [V12, V13])
def test_clients_may_show_a_certificate(mtls, version):
    s = mtls("--ssl-cert-reqs", "1")
    with s.connect(tls=certs.client(ROOT, version)) as c:
        assert c.get("/scope").json()["extensions"]["tls"]["client_cert_chain"] == []
    is_refused(s, mtls.show(certs.Authority("x", number=104).issue("mallory", client=True, number=3), version), "unknown ca")
    with s.connect(tls=mtls.show(mtls.issue("alice"), version)) as c:
        assert c.get("/scope").json()["extensions"]["tls"]["client_cert_name"] == "CN=alice"


def test_nobody_is_asked(mtls):
    s = mtls("--tls-client-verify", "none")
    with s.connect(tls=mtls.show(mtls.issue("alice"))) as c:
        assert c.get("/scope").json()["extensions"]["tls"]["client_cert_chain"] == []


def test_what_the_application_sees_of_a_client(mtls):
    s = mtls()
    middle = certs.Authority("client middle", above=mtls.authority, number=103)
    subject = certs.name_of(
        "Zoë, \"Q\" + <x>", x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A=B;C"), x509.NameAttribute(NameOID.COUNTRY_NAME, "DE")
    )
    one = middle.issue("zoe", client=True, number=3, subject=subject)
    with s.connect(tls=mtls.show(one)) as c:
        for _ in range(2):
            tls = c.get("/scope").json()["extensions"]["tls"]
            shown = [x509.load_pem_x509_certificate(pem.encode()) for pem in tls["client_cert_chain"]]
            assert shown == [one.x509, middle.x509]
            assert tls["client_cert_name"] == one.x509.subject.rfc4514_string()
            assert tls["client_cert_error"] is None
    s.tls = mtls.show(one)


def test_revoked_clients(mtls, tmp_path):
    alice, bob = mtls.issue("alice"), mtls.issue("bob")
    crl = tmp_path / "clients.crl"
    crl.write_bytes(mtls.authority.crl(alice))
    s = mtls("--tls-crl", crl, "--tls-watch", "200ms")
    is_refused(s, mtls.show(alice), "revoked")
    with s.connect(tls=mtls.show(bob)) as c:
        assert c.get("/hello").status == 200
    s.wait_log("client certificate: certificate revoked")
    # The list is taken while the server runs.
    replace_text(crl, mtls.authority.crl(alice, bob))
    s.wait_log("files have changed; new connections get")
    wire.eventually(lambda: not can_connect(s, mtls.show(bob)), 5)
    is_refused(s, mtls.show(bob), "revoked")
    s.tls = mtls.show(mtls.issue("carol"))


def can_connect(s, context):
    try:
        with s.connect(tls=context) as c:
            return c.get("/hello").status == 200
    except (OSError, wire.Closed):
        return False


def test_stale_revocation_list_warns(mtls, tmp_path):
    crl = tmp_path / "clients.crl"
    crl.write_bytes(mtls.authority.crl(ends=-DAY / 4))
    s = mtls("--tls-crl", crl)
    assert "was to be renewed by" in s.log
    is_refused(s, mtls.show(mtls.issue("alice")), "unknown|expired|crl|CRL|bad certificate")


# ------------------------------------------------------------------ OCSP


def staple(s, name="localhost"):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{s.port}", "-servername", name, "-status"]
    return subprocess.run(command, input=b"", capture_output=True, timeout=20).stdout.decode("utf-8", "replace")


def test_ocsp_is_stapled(server, tmp_path):
    """Each answer goes with the certificate it is about, whatever their order."""
    one, two = ROOT.issue("localhost"), ROOT.issue("two.test", number=1)
    files = []
    for name, cert in (("two", two), ("one", one)):
        files.append(tmp_path / f"{name}.ocsp")
        files[-1].write_bytes(ROOT.ocsp(cert))
    s = started(
        server, *options(one.write(tmp_path, "one"), two.write(tmp_path, "two")), "--tls-ocsp", files[0], "--tls-ocsp", files[1],
        "--tls-watch", "200ms",
    )  # fmt: skip
    for name, cert in (("localhost", one), ("two.test", two)):
        said = staple(s, name)
        assert "OCSP Response Status: successful" in said and f"Serial Number: {cert.x509.serial_number:X}" in said.replace("Serial Number: 0", "Serial Number: "), said
    assert s.get("/hello").status == 200  # who does not ask gets none
    replace_text(files[1], ROOT.ocsp(one, ends=-DAY / 4))
    s.wait_log("one.ocsp: it is too old and not stapled")
    wire.eventually(lambda: "no response sent" in staple(s), 5)


@pytest.mark.parametrize("what, says", [("old", "too old"), ("revoked", "is not good"), ("other", "about none of our"), ("junk", "no OCSP answer")])
def test_what_is_not_stapled(server, tmp_path, what, says):
    one = ROOT.issue("localhost")
    answers = {"old": ROOT.ocsp(one, ends=-DAY / 4), "revoked": ROOT.ocsp(one, good=False), "other": ROOT.ocsp(ROOT.issue("x")), "junk": b"junk"}
    (tmp_path / "ocsp").write_bytes(answers[what])
    s = started(server, *options(one.write(tmp_path, "one")), "--tls-ocsp", tmp_path / "ocsp")
    assert says in s.log
    assert "no response sent" in staple(s)


# ------------------------------------------------------------------ session tickets


def session_of(s, context):
    """A ticket, and who made it."""
    with s.connect(tls=context) as c:
        pid = c.get("/process").json()["pid"]
        assert not c.sock.session_reused
        return c.sock.session, pid


def resumed(s, context, session):
    """Whether it was, and who did it."""
    with s.connect(tls=context, session=session) as c:
        return c.sock.session_reused, c.get("/process").json()["pid"]


@pytest.mark.parametrize("version", [V12, V13])
def test_sessions_resume_at_every_worker(server, issued, version):
    s = started(server, *options(issued("one")), "--workers", "2")
    both_ready(s)
    context = certs.client(ROOT, version)
    session, first = session_of(s, context)
    seen = set()
    deadline = time.monotonic() + 20
    while len(seen) < 2 and time.monotonic() < deadline:  # the kernel chooses the worker
        was_resumed, pid = resumed(s, context, session)
        assert was_resumed
        seen.add(pid)
    assert len(seen) == 2 and first in seen


@pytest.mark.parametrize("version", [V12, V13])
def test_sessions_survive_a_reload(server, issued, version):
    s = started(server, *options(issued("one")))
    context = certs.client(ROOT, version)
    session, first = session_of(s, context)
    reloaded(s)
    was_resumed, pid = resumed(s, context, session)
    assert was_resumed and pid != first


def test_keys_rotate(server, issued):
    """A ticket is good under the key before the present one, and no longer."""
    s = started(server, *options(issued("one")), "--tls-ticket-rotation", "2s")
    context = certs.client(ROOT, V12)
    session, _ = session_of(s, context)
    assert resumed(s, context, session)[0]
    ages = []
    begun = time.monotonic()
    while time.monotonic() < begun + 20:
        was_resumed, _ = resumed(s, context, session)
        if not was_resumed:
            break
        ages.append(time.monotonic() - begun)
        time.sleep(0.1)
    else:
        raise AssertionError("a ticket was good for ten rotations")
    fresh, _ = session_of(s, context)
    assert resumed(s, context, fresh)[0]


def test_no_tickets(server, issued):
    s = started(server, *options(issued("one")), "--tls-ticket-rotation", "off")
    for version in (V12, V13):
        context = certs.client(ROOT, version)
        with s.connect(tls=context) as c:
            c.get("/hello")
            session = c.sock.session
        if session is not None:
            assert not resumed(s, context, session)[0]


def test_clients_with_certificates_show_them_each_time(mtls):
    s = mtls()
    for version in (V12, V13):
        context = mtls.show(mtls.issue("alice"), version)
        with s.connect(tls=context) as c:
            c.get("/hello")
            session = c.sock.session
        with s.connect(tls=context, session=session) as c:
            assert not c.sock.session_reused
            assert c.get("/scope").json()["extensions"]["tls"]["client_cert_name"] == "CN=alice"
    s.tls = context


def test_ticket_does_not_lead_past_a_new_rule(server, issued, tmp_path):
    """A session from before client certificates were asked for does not get in after the reload that asks for them."""
    clients = certs.Authority("clients", number=102)
    cert, key = issued("one")
    config = f"app: raw:app\napp_dir: {harness.APPS}\ntls:\n  cert: {cert}\n  key: {key}\n"
    s = server(None, config=config, app_dir=None)
    s.tls = certs.client(ROOT)
    context = certs.client(ROOT, V13)
    session, _ = session_of(s, context)
    (s.cwd / "ringcorn.yaml").write_text(config + f"  client_ca: {clients.write(tmp_path, 'clients')}\n")
    reloaded(s)
    with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError, wire.Closed)):
        resumed(s, context, session)
    s.tls = certs.client(ROOT, certificate=clients.issue("a", client=True, number=3).write(tmp_path, "a"))


# ------------------------------------------------------------------ replacement


def replace_text(path, data):
    """As whoever is careful does it."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


def test_changed_files_are_taken(server, tmp_path):
    """By the workers that run: nobody is replaced, open connections go on, also with another kind of key."""
    one = ROOT.issue("localhost", "first.test").write(tmp_path, "one")
    s = started(server, *options(one), "--tls-watch", "200ms", "--workers", "2")
    both_ready(s)
    workers = s.workers()
    with s.connect() as kept:
        assert kept.get("/hello").status == 200
        ROOT.issue("localhost", "second.test", kind="rsa").write(tmp_path, "one")
        s.wait_log("files have changed; new connections get the certificate now in")
        wire.eventually(lambda: all("second.test" in names_in(leaf(s)) for _ in range(8)), 5)
        assert kept.get("/hello").status == 200
    assert s.workers() == workers


def test_broken_files_change_nothing(server, tmp_path):
    cert, key = ROOT.issue("localhost", "first.test").write(tmp_path, "one")
    good = cert.read_bytes()
    s = started(server, *options((cert, key)), "--tls-watch", "200ms")
    s.expect_errors("no certificate in PEM", "files have changed and cannot be used")
    cert.write_text("half of it")
    s.wait_log("files have changed and cannot be used, see above; the old certificates stay")
    assert s.get("/hello").status == 200 and "first.test" in names_in(leaf(s))
    # Neither does one that is gone for a while, and what is right again is taken.
    s.expect_errors("there is no file", "files have changed and cannot be used")
    cert.unlink()
    s.wait_log("tls.cert: there is no file")
    assert s.get("/hello").status == 200
    cert.write_bytes(good)
    s.wait_log("new connections get the certificate now in")
    assert s.get("/hello").status == 200


def test_symlinks_are_followed(server, tmp_path):
    """certbot's and Kubernetes' way: the link points elsewhere."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        ROOT.issue("localhost", f"{name}.test").write(tmp_path / name, "tls")
    link = tmp_path / "live"
    link.symlink_to("first")
    s = started(server, *options((link / "tls.pem", link / "tls.key")), "--tls-watch", "200ms")
    assert "first.test" in names_in(leaf(s))
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").rename(link)
    s.wait_log("files have changed")
    wire.eventually(lambda: "second.test" in names_in(leaf(s)), 5)


def test_reload_takes_them_at_once(server, tmp_path):
    one = ROOT.issue("localhost", "first.test").write(tmp_path, "one")
    s = started(server, *options(one), "--tls-watch", "off")
    ROOT.issue("localhost", "second.test").write(tmp_path, "one")
    time.sleep(0.5)
    assert "first.test" in names_in(leaf(s))
    reloaded(s)
    assert "second.test" in names_in(leaf(s))


def test_reload_with_broken_files_keeps_the_old(server, tmp_path):
    one = ROOT.issue("localhost", "first.test").write(tmp_path, "one")
    s = started(server, *options(one), "--tls-watch", "off")
    workers = s.workers()
    s.expect_errors("the new configuration cannot be used")
    one[1].write_text("no key")
    s.send_signal(signal.SIGHUP)
    s.wait_log("reload: the new configuration cannot be used, see above; the old one and its workers stay")
    assert "no private key in PEM" in s.log
    assert "first.test" in names_in(leaf(s)) and s.workers() == workers


def test_worker_that_dies_is_replaced_with_the_present_certificate(server, tmp_path):
    one = ROOT.issue("localhost", "first.test").write(tmp_path, "one")
    s = started(server, *options(one), "--tls-watch", "200ms")
    ROOT.issue("localhost", "second.test").write(tmp_path, "one")
    s.wait_log("files have changed; new connections get")
    s.expect_errors("died|killed")
    os.kill(s.workers()[0], signal.SIGKILL)
    wire.eventually(lambda: s.log.count("is ready") == 2, 10)
    assert "second.test" in names_in(leaf(s))
    s.baseline()


def test_http_becomes_https_by_a_reload(server, issued):
    """And back; the sockets stay."""
    cert, key = issued("one")
    plain = f"app: raw:app\napp_dir: {harness.APPS}\n"
    s = server(None, config=plain, app_dir=None)
    assert s.get("/hello").status == 200
    for config, tls in [(plain + f"tls: {{cert: {cert}, key: {key}}}\n", certs.client(ROOT)), (plain, None)]:
        (s.cwd / "ringcorn.yaml").write_text(config)
        reloaded(s)
        s.tls = tls
        assert s.get("/scope").json()["scheme"] == ("https" if tls else "http")
    s.settle()

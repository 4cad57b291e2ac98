"""Certificates for tests: an authority of the test's own, and whatever it signs. Keys are made once a run: they say nothing, and
making one of RSA takes long."""

import datetime
import functools
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


def now():
    return datetime.datetime.now(datetime.timezone.utc)


@functools.cache
def key_of(kind, number=0):
    """One and the same key for a kind ("ec", "rsa") and a number."""
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())


def name_of(text, *more):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text), *more])


class Certificate:
    def __init__(self, x, key, chain=()):
        self.x509, self.key, self.chain = x, key, list(chain)

    @property
    def pem(self):
        """With its chain."""
        return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in [self.x509, *self.chain])

    def key_pem(self, password=None, form=serialization.PrivateFormat.PKCS8):
        cipher = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, form, cipher)

    def write(self, folder, name, password=None):
        """The paths of certificate and key: name.pem, name.key."""
        cert, key = folder / f"{name}.pem", folder / f"{name}.key"
        cert.write_bytes(self.pem)
        key.write_bytes(self.key_pem(password))
        return cert, key


class Authority:
    """Signs; itself signed by another, or by itself."""

    def __init__(self, name="test root", above=None, number=100):
        self.key, self.name = key_of("ec", number), name_of(name)
        self.above = above
        issuer = above or self
        self.x509 = self._builder(self.name, self.key, issuer, -DAY, 30 * DAY).add_extension(
            x509.BasicConstraints(True, None), True
        ).sign(issuer.key, hashes.SHA256())  # fmt: skip

    def _builder(self, subject, key, issuer, begins, ends):
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now() + begins).not_valid_after(now() + ends)
        )  # fmt: skip

    @property
    def pem(self):
        return self.x509.public_bytes(serialization.Encoding.PEM)

    def write(self, folder, name="ca"):
        path = folder / f"{name}.pem"
        path.write_bytes(self.pem)
        return path

    def issue(self, *names, kind="ec", number=0, begins=-DAY, ends=10 * DAY, client=False, subject=None):
        """A certificate for these names; the first is the common name too."""
        key = key_of(kind, number)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = self._builder(subject or name_of(names[0]), key, self, begins, ends).add_extension(x509.ExtendedKeyUsage([usage]), False)
        if not client:
            alternatives = [x509.IPAddress(ipaddress.ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        chain = [self.x509] if self.above else []
        return Certificate(builder.sign(self.key, hashes.SHA256()), key, chain)

    def crl(self, *revoked, ends=DAY):
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(now() - DAY).next_update(now() + ends)
        for one in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(one.x509.serial_number).revocation_date(now() - DAY / 2).build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def ocsp(self, one, good=True, ends=DAY):
        """An answer about a certificate, DER."""
        status, revoked = (ocsp.OCSPCertStatus.GOOD, None) if good else (ocsp.OCSPCertStatus.REVOKED, now() - DAY / 2)
        return (
            ocsp.OCSPResponseBuilder().add_response(
                cert=one.x509, issuer=self.x509, algorithm=hashes.SHA1(), cert_status=status, this_update=now() - DAY,
                next_update=now() + ends, revocation_time=revoked, revocation_reason=None,
            ).responder_id(ocsp.OCSPResponderEncoding.HASH, self.x509).sign(self.key, hashes.SHA256())
            .public_bytes(serialization.Encoding.DER)
        )  # fmt: skip


def client(authority=None, version=None, certificate=None, alpn=None, ciphers=None):
    """A context that trusts an authority (None: anybody) and shows a certificate (its paths)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = authority is not None
    context.verify_mode = ssl.CERT_REQUIRED if authority else ssl.CERT_NONE
    if authority:
        context.load_verify_locations(cadata=authority.pem.decode())
    if version:
        context.minimum_version = context.maximum_version = version
    if certificate:
        context.load_cert_chain(*certificate)
    if alpn:
        context.set_alpn_protocols(alpn)
    if ciphers:
        context.set_ciphers(ciphers)
    return context

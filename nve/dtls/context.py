"""What all DTLS connections of an NVE have in common: suite, certificates, whom to believe, cookies.

Both ends show a certificate of the testbed's CA, which makes them for clients (extended key usage clientAuth): the
control channel, for which they are, has nodes as clients only. OpenSSL would refuse such a certificate from a DTLS
server. NVEs are peers, and which of them is the server is a matter of addresses, so here the usage is clientAuth for
both: what OpenSSL asks for is set aside, and :func:`refuse_certificate` asks for that instead. So the NVA's
certificate, which is a server's, is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto

from geneve.control.channel import Cipher
from geneve.control.tls import TlsFiles
from geneve.errors import ConfigError

DTLS_1_2 = 0xFEFD
VERSION_NAME = "DTLSv1.2"
COOKIE_SECONDS = 60
"""A cookie is good for this long at least, and at most twice as long."""

_NO_ENCRYPT_THEN_MAC = 1 << 19
"""SSL_OP_NO_ENCRYPT_THEN_MAC. With encrypt-then-MAC (RFC 7366), which OpenSSL would agree on for the NULL suite, it
ends the session with an alert at the first record that does not verify: anybody could end it (OpenSSL issue 24972).
Without it such records are dropped (RFC 6347, section 4.1.2.7). Where nothing is encrypted the order means nothing."""
_OPTIONS = (
    SSL.OP_NO_QUERY_MTU
    | SSL.OP_NO_RENEGOTIATION
    | SSL.OP_NO_TICKET
    | SSL.OP_NO_COMPRESSION
    | (SSL.OP_COOKIE_EXCHANGE or 0)
    | _NO_ENCRYPT_THEN_MAC
)
_INVALID_PURPOSE = 26
"""X509_V_ERR_INVALID_PURPOSE."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite: OpenSSL's name of it, what it adds to each record's plaintext (bytes), OpenSSL's text to ask."""

    name: str
    overhead: int
    wanted: str


SUITES = {
    # Record header, explicit nonce and tag (RFC 5288): 13 + 8 + 16.
    Cipher.AES_128_GCM: Suite("ECDHE-ECDSA-AES128-GCM-SHA256", 37, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    # Record header and HMAC-SHA-1: 13 + 20. OpenSSL counts suites without encryption as those of security level 0.
    Cipher.NULL: Suite("ECDHE-ECDSA-NULL-SHA", 33, "ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0"),
}


@dataclass(slots=True)
class Expected:
    """What a connection knows of the peer it is with: its name, cookies that are good, why it was refused."""

    name: str
    cookies: tuple[bytes, ...] = ()
    refusal: str | None = None


class DtlsContext:
    """Makes connections with one cipher suite, which send datagrams of ``mtu`` bytes (UDP payload) at most."""

    def __init__(self, files: TlsFiles, cipher: Cipher, mtu: int) -> None:
        """ConfigError names the file that cannot be used."""
        self.suite, self.mtu = SUITES[cipher], mtu
        self._secret = secrets.token_bytes(32)
        context = self._context = SSL.Context(SSL.DTLS_METHOD)
        context.set_min_proto_version(DTLS_1_2)
        context.set_max_proto_version(DTLS_1_2)
        context.set_options(_OPTIONS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # each connection proves its certificate anew
        context.set_cipher_list(self.suite.wanted.encode())
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
        context.set_cookie_generate_callback(_give_cookie)
        context.set_cookie_verify_callback(_accept_cookie)
        _load(context, files)

    def connect(self, peer: str) -> SSL.Connection:
        """Return a client's connection to the NVE named."""
        connection = self._connection(Expected(peer))
        connection.set_connect_state()
        return connection

    def listen(self) -> SSL.Connection:
        """Return a server's connection that has no client yet: see :meth:`expect`."""
        connection = self._connection(Expected(""))
        connection.set_accept_state()
        return connection

    def expect(self, connection: SSL.Connection, peer: str, client: bytes, now: float) -> None:
        """Say whom a listening connection is to believe next; ``client`` is the address that cookies stand for."""
        connection.set_app_data(Expected(peer, self.cookies(client, now)))

    def cookies(self, client: bytes, now: float) -> tuple[bytes, ...]:
        """Return the cookies that are good for a client's address, the one to give first (RFC 6347, section 4.2.1).

        They do not depend on the hello. One who forges hellos from the client's address so makes the server send the
        client nothing but the cookie that its own hello would have brought.
        """
        period = int(now // COOKIE_SECONDS)
        return self._cookie(period, client), self._cookie(period - 1, client)

    def _connection(self, expected: Expected) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        connection.set_ciphertext_mtu(self.mtu)
        connection.set_app_data(expected)
        return connection

    def _cookie(self, period: int, client: bytes) -> bytes:
        return hmac.digest(self._secret, period.to_bytes(8, "big", signed=True) + client, hashlib.sha256)


def refuse_certificate(certificate: x509.Certificate, name: str) -> str | None:
    """Return why a certificate of the CA is not that of the NVE named; None when it is.

    Its one common name must be ``name``, as the control channel has it, a DNS name too, and it must be a node's.
    """
    names = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1 or not names[0]:
        return "the peer's certificate does not have exactly one common name"
    if names[0] != name:
        return f"the peer's certificate names '{names[0]!s}', expected '{name}'"
    try:
        extensions = certificate.extensions
        dns = extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        usage = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return "the peer's certificate lacks a subject alternative name or an extended key usage that can be read"
    if name not in dns:
        return f"the peer's certificate is not valid for the name '{name}'"
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        return "the peer's certificate is not that of a node"
    return None


def _verify(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """Decide about one certificate of a chain, the peer's own (depth 0) last, when OpenSSL has verified all of them."""
    if not ok:
        return error == _INVALID_PURPOSE and depth == 0
    expected = connection.get_app_data()
    if depth or not isinstance(expected, Expected):
        return True
    expected.refusal = refuse_certificate(certificate.to_cryptography(), expected.name)
    return expected.refusal is None


def _give_cookie(connection: SSL.Connection) -> bytes:
    expected: Expected = connection.get_app_data()
    return expected.cookies[0]


def _accept_cookie(connection: SSL.Connection, cookie: bytes) -> bool:
    expected: Expected = connection.get_app_data()
    return any(hmac.compare_digest(cookie, good) for good in expected.cookies)


def _load(context: SSL.Context, files: TlsFiles) -> None:
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    try:
        context.load_verify_locations(files.ca)
    except SSL.Error:
        raise ConfigError(f"{files.ca}: no certificate of a CA can be read from it; expected PEM.") from None
    try:
        context.use_certificate_chain_file(files.certificate)
        key = serialization.load_pem_private_key(Path(files.key).read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the suites are ECDSA's")
        context.use_privatekey(key)
        context.check_privatekey()
    except (SSL.Error, OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{files.certificate} and {files.key}: no certificate with its private key can be read "
            "from them; expected PEM, the key one for ECDSA and without a password."
        ) from None

"""TLS 1.3 with certificates on both sides, without input or output of its own: bytes in, bytes out.

Both ends prove who they are (mutual authentication). The name of a peer is the common name of its
certificate; a client also demands that the certificate names the server it meant (RFC 6125).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from geneve.errors import ConfigError, ParseError

_READ_SIZE = 65536


class TlsError(ParseError):
    """The handshake failed or the peer's records are not acceptable; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of the PEM files of one end: the CA that both trust, its certificate, its private key."""

    ca: str
    certificate: str
    key: str


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a node's context; ConfigError names the file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    _load(context, files)
    return context


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the NVA's context, which demands a certificate; ConfigError names the file at fault."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # No resumption: each connection proves its certificate anew.
    context.num_tickets = 0
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(files.ca)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"{files.ca}: no certificate of a CA can be read from it; expected PEM.") from None
    try:
        # Without a password callback OpenSSL would ask on the terminal for an encrypted key.
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError):
        raise ConfigError(
            f"{files.certificate} and {files.key}: no certificate with its private key can be read "
            "from them; expected PEM, the key without a password."
        ) from None


def _no_password() -> str:
    raise ValueError("the key has a password")


class TlsEndpoint:
    """One end of one connection.

    Feed received bytes to :meth:`receive`, and send what :meth:`take_outgoing` returns after every call,
    a failed one too (it then holds the alert that tells the peer why).
    """

    def __init__(self, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        """Make a client that expects ``server_name``, or, when that is None, a server."""
        self._server_name = server_name
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self._waiting = bytearray()
        self.peer_name: str | None = None
        """The common name of the peer's certificate, once the handshake is complete."""
        self.closed = False
        """Whether the peer has ended the connection in the regular way."""
        if server_name is not None:
            self._handshake()

    @property
    def established(self) -> bool:
        """Whether the handshake is complete and the peer's certificate was accepted."""
        return self.peer_name is not None

    def receive(self, data: bytes) -> bytes:
        """Take received bytes and return the plaintext they complete; TlsError ends the connection."""
        self._incoming.write(data)
        if not self.established:
            self._handshake()
        return self._read() if self.established else b""

    def send(self, plaintext: bytes) -> None:
        """Encrypt ``plaintext``, or keep it until the handshake is complete."""
        self._waiting += plaintext
        if self.established:
            self._write()

    def take_outgoing(self) -> bytes:
        """Return the bytes to be sent to the peer, none when there are none."""
        return self._outgoing.read()

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLCertVerificationError as error:
            raise TlsError(f"the peer's certificate was refused: {error.verify_message}") from None
        except (ssl.SSLError, ValueError) as error:
            raise TlsError(f"the TLS handshake failed: {_reason(error)}") from None
        name = self._common_name()
        if self._server_name not in {None, name}:
            raise TlsError(f"the server's certificate names '{name}', expected '{self._server_name}'")
        self.peer_name = name
        self._write()

    def _common_name(self) -> str:
        certificate: dict[str, Any] = dict(self._tls.getpeercert() or {})
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        if len(names) != 1 or not names[0]:
            raise TlsError("the peer's certificate does not have exactly one common name")
        return str(names[0])

    def _write(self) -> None:
        if self._waiting:
            try:
                self._tls.write(self._waiting)
            except ssl.SSLError as error:
                raise TlsError(f"sending over TLS failed: {_reason(error)}") from None
            self._waiting.clear()

    def _read(self) -> bytes:
        plaintext = bytearray()
        while not self.closed:
            try:
                chunk = self._tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self.closed = True
                break
            except ssl.SSLError as error:
                raise TlsError(f"the TLS connection failed: {_reason(error)}") from None
            if not chunk:
                self.closed = True
            plaintext += chunk
        return bytes(plaintext)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else type(error).__name__

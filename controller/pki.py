"""A certificate authority for one run of the testbed (X.509, RFC 5280; ECDSA P-256).

``python -m controller.pki --out DIR --node nve1 --node t1 --operator alice --nva nva --address 192.168.0.100`` writes
DIR/ca.pem and, for each name, DIR/NAME.pem and DIR/NAME.key (mode 0600). The CA's private key exists
only in this program's memory: no further certificate can be made once it has ended.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import TypeAdapter, ValidationError

from geneve.control.names import Name
from geneve.errors import ConfigError

DEFAULT_HOURS = 72
"""Validity of every certificate in hours: longer than the longest run, of no use afterwards."""

_SKEW = datetime.timedelta(minutes=5)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True)
class Credentials:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Credentials(...)"


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


class TestbedCa:
    """A certificate authority whose key lives in memory only."""

    __test__ = False  # the name starts with Test, but it is no test class

    def __init__(self, now: datetime.datetime, hours: float = DEFAULT_HOURS) -> None:
        """Make a new CA, valid from ``now`` (aware, UTC) for ``hours``."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._from, self._until = now - _SKEW, now + datetime.timedelta(hours=hours)
        name = _subject("Testbed CA")
        self._issuer_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        self._certificate = (
            self._builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate(self) -> bytes:
        """The CA's certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue_node(self, name: str) -> Credentials:
        """Return credentials with which a node or an operator can act as a TLS client and nothing else."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def issue_nva(self, name: str, addresses: Sequence[str]) -> Credentials:
        """Return credentials with which the NVA can act as a TLS server at ``addresses``."""
        return self._issue(name, ExtendedKeyUsageOID.SERVER_AUTH, addresses)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._from)
            .not_valid_after(self._until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self._issuer_identifier, critical=False)
        )

    def _issue(self, name: str, usage: x509.ObjectIdentifier, addresses: Sequence[str]) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        certificate = (
            self._builder(_subject(name), self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Credentials(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Write ``data`` to ``path`` so that it never exists with more rights than ``mode``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_credentials(folder: Path, name: str, credentials: Credentials) -> None:
    """Write NAME.pem and NAME.key (0600) into ``folder``."""
    write_file(folder / f"{name}.key", credentials.key, 0o600)
    write_file(folder / f"{name}.pem", credentials.certificate, 0o644)


def _node_name(text: str) -> str:
    # NAME:ROLE is accepted too; a certificate holds no role, since the inventory alone decides it.
    name, _, role = text.partition(":")
    if role not in {"", "nve", "transit"}:
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME or NAME:ROLE, role nve or transit")
    return _client_name(name)


def _client_name(text: str) -> str:
    try:
        return _NAME.validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(
            f"'{text}': expected a name of 1 to 32 letters, digits, - or _, a letter first"
        ) from None


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': expected an IPv4 or IPv6 address") from None


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="controller.pki", description="Make the certificates of one run.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; made if it is missing")
    parser.add_argument("--node", type=_node_name, action="append", default=[], help="a node's name; repeatable")
    parser.add_argument(
        "--operator", type=_client_name, action="append", default=[], help="an operator's name; repeatable"
    )
    parser.add_argument("--nva", type=_node_name, required=True, help="the NVA's name")
    parser.add_argument("--address", type=_address, action="append", default=[], help="an address of the NVA")
    parser.add_argument("--hours", type=float, default=DEFAULT_HOURS, help="validity (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    arguments = _arguments().parse_args(argv)
    clients: list[str] = [*arguments.node, *arguments.operator]
    names = [arguments.nva, *clients]
    try:
        if not 0 < arguments.hours <= 24 * 365:
            raise ConfigError(f"--hours {arguments.hours:g}: expected more than 0 and at most one year.")
        if len(set(names)) != len(names) or "ca" in names:
            raise ConfigError("--node, --operator: each name may be given once, and 'ca' is taken; rename one.")
        authority = TestbedCa(datetime.datetime.now(datetime.timezone.utc), arguments.hours)
        arguments.out.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(arguments.out / "ca.pem", authority.certificate, 0o644)
        write_credentials(arguments.out, arguments.nva, authority.issue_nva(arguments.nva, arguments.address))
        for name in clients:
            write_credentials(arguments.out, name, authority.issue_node(name))
    except ConfigError as error:
        print(f"controller.pki: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"controller.pki: {arguments.out}: cannot be written ({error.strerror}).", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The testbed's certificates, as files and as X.509."""

from __future__ import annotations

import datetime
import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from controller.pki import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "pki"
    names = ["--node", "nve1", "--node", "t1:transit", "--operator", "alice", "--nva", "nva"]
    assert main(["--out", str(out), *names, "--address", "192.0.2.1", "--address", "2001:db8::1"]) == 0
    return out


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_only_what_is_needed_is_written_and_keys_are_private(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    pairs = {f"{name}.{kind}" for name in ("nva", "nve1", "t1", "alice") for kind in ("pem", "key")}
    assert names == {"ca.pem"} | pairs
    for path in folder.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    authority = certificate(folder / "ca.pem").public_key()
    for path in folder.iterdir():
        assert path.name == "ca.pem" or authority != _public(path)


def _public(path: Path) -> object:
    if path.suffix == ".key":
        return serialization.load_pem_private_key(path.read_bytes(), None).public_key()
    return certificate(path).public_key()


def test_certificates_say_what_they_are_for(folder: Path) -> None:
    authority = certificate(folder / "ca.pem")
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usages = {"nva": ExtendedKeyUsageOID.SERVER_AUTH}
    usages |= dict.fromkeys(("nve1", "alice"), ExtendedKeyUsageOID.CLIENT_AUTH)
    for name, usage in usages.items():
        leaf = certificate(folder / f"{name}.pem")
        leaf.verify_directly_issued_by(authority)
        assert leaf.subject.rfc4514_string() == f"CN={name}"
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
        key_usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        assert key_usage.digital_signature
        assert not key_usage.key_cert_sign
        own = leaf.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        parent = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        assert issuer == parent != own
    names = certificate(folder / "nva.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")]
    assert names.get_values_for_type(x509.IPAddress) == addresses
    assert names.get_values_for_type(x509.DNSName) == ["nva"]


def test_certificates_are_short_lived(folder: Path) -> None:
    for path in folder.glob("*.pem"):
        leaf = certificate(path)
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc < datetime.timedelta(days=4)


def test_bad_arguments_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--node", "ca"], ["--node", "nva"], ["--operator", "nva"], ["--node", "x", "--operator", "x"],
        ["--hours", "0"],
    ):
        assert main(["--out", str(tmp_path), "--nva", "nva", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    for arguments in (["--node", "../x"], ["--node", "nve1:king"], ["--operator", "a:nve"], ["--address", "300.1.1.1"]):
        with pytest.raises(SystemExit, match="2"):
            main(["--out", str(tmp_path), "--nva", "nva", *arguments])
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["--out", str(blocked), "--nva", "nva"]) == 2

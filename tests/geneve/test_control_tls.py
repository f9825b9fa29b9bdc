"""TLS 1.3 in memory: only the right two ends come to terms, and garbage gives TlsError only."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.tls import TlsEndpoint, TlsError, TlsFiles, client_context, server_context
from geneve.errors import ConfigError
from tests.credentials import make_ca, node_files, nva_files


def exchange(client: TlsEndpoint, server: TlsEndpoint) -> tuple[bytes, bytes]:
    """Carry bytes both ways until both are silent; returns what each received."""
    at_client, at_server = b"", b""
    while True:
        up, down = client.take_outgoing(), server.take_outgoing()
        if not up and not down:
            return at_client, at_server
        if up:
            at_server += server.receive(up)
        if down:
            at_client += client.receive(down)


@pytest.fixture
def files(tmp_path: Path) -> tuple[TlsFiles, TlsFiles]:
    authority = make_ca()
    return node_files(tmp_path, authority, "nve1"), nva_files(tmp_path, authority)


def pair(node: TlsFiles, nva: TlsFiles, expected: str = "nva") -> tuple[TlsEndpoint, TlsEndpoint]:
    return TlsEndpoint(client_context(node), server_name=expected), TlsEndpoint(server_context(nva))


def test_both_ends_learn_the_other_name_and_exchange_data(files: tuple[TlsFiles, TlsFiles]) -> None:
    client, server = pair(*files)
    client.send(b"early")
    assert exchange(client, server) == (b"", b"early")
    assert (client.peer_name, server.peer_name) == ("nva", "nve1")
    server.send(b"x" * 100_000)
    assert exchange(client, server) == (b"x" * 100_000, b"")


def test_nothing_but_tls_1_3_is_spoken(files: tuple[TlsFiles, TlsFiles]) -> None:
    old = client_context(files[0])
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(TlsError):
        exchange(TlsEndpoint(old, server_name="nva"), TlsEndpoint(server_context(files[1])))
    server = server_context(files[1])
    server.minimum_version = ssl.TLSVersion.TLSv1_2
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(TlsError):
        exchange(TlsEndpoint(client_context(files[0]), server_name="nva"), TlsEndpoint(server))


def test_a_client_without_certificate_is_refused(files: tuple[TlsFiles, TlsFiles]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files[0].ca)
    client, server = TlsEndpoint(context, server_name="nva"), TlsEndpoint(server_context(files[1]))
    with pytest.raises(TlsError, match="certificate"):
        exchange(client, server)
    assert not server.established


def test_a_certificate_of_a_foreign_ca_is_refused_by_either_side(
    files: tuple[TlsFiles, TlsFiles], tmp_path: Path
) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    foreign = make_ca()
    foreign_node, foreign_nva = node_files(folder, foreign, "nve1"), nva_files(folder, foreign)
    intruder = TlsFiles(files[0].ca, foreign_node.certificate, foreign_node.key)
    with pytest.raises(TlsError):
        exchange(*pair(intruder, files[1]))
    impostor = TlsFiles(files[1].ca, foreign_nva.certificate, foreign_nva.key)
    with pytest.raises(TlsError):
        exchange(*pair(files[0], impostor))


def test_a_server_of_another_name_is_refused(files: tuple[TlsFiles, TlsFiles]) -> None:
    client, server = pair(*files, expected="other")
    with pytest.raises(TlsError):
        exchange(client, server)
    assert not client.established


def test_a_node_cannot_pose_as_the_nva(tmp_path: Path) -> None:
    authority = make_ca()
    named_like_nva = node_files(tmp_path, authority, "nva")
    node = node_files(tmp_path, authority, "nve1")
    with pytest.raises(TlsError):
        exchange(*pair(node, named_like_nva))


def test_the_nva_certificate_is_no_node_certificate(files: tuple[TlsFiles, TlsFiles]) -> None:
    with pytest.raises(TlsError):
        exchange(*pair(files[1], files[1]))


def test_expired_certificates_are_refused(tmp_path: Path) -> None:
    authority = make_ca(days_ago=3)
    with pytest.raises(TlsError):
        exchange(*pair(node_files(tmp_path, authority, "nve1"), nva_files(tmp_path, authority)))


def test_the_refusal_reaches_the_other_side_as_an_alert(files: tuple[TlsFiles, TlsFiles]) -> None:
    client, server = pair(*files)
    server_failed = False
    try:
        server.receive(b"GET / HTTP/1.0\r\n\r\n")
    except TlsError:
        server_failed = True
    assert server_failed
    client, server = pair(*files, expected="other")
    server.receive(client.take_outgoing())
    with pytest.raises(TlsError):
        client.receive(server.take_outgoing())
    alert = client.take_outgoing()
    assert alert
    with pytest.raises(TlsError):
        server.receive(alert)


def test_a_changed_record_ends_the_connection(files: tuple[TlsFiles, TlsFiles]) -> None:
    client, server = pair(*files)
    exchange(client, server)
    client.send(b"payload")
    record = bytearray(client.take_outgoing())
    record[-1] ^= 1
    with pytest.raises(TlsError):
        server.receive(bytes(record))


CA = make_ca()


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=100), st.booleans())
def test_garbage_gives_tls_error_only(garbage: bytes, after_hello: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        node, nva = node_files(Path(folder), CA, "nve1"), nva_files(Path(folder), CA)
        client, server = pair(node, nva)
        try:
            if after_hello:
                server.receive(client.take_outgoing())
            server.receive(garbage)
        except TlsError:
            pass
        assert not server.established


def test_unusable_files_are_named(files: tuple[TlsFiles, TlsFiles], tmp_path: Path) -> None:
    node = files[0]
    for bad in (
        TlsFiles("missing.pem", node.certificate, node.key),
        TlsFiles(node.ca, "missing.pem", node.key),
        TlsFiles(node.ca, node.certificate, files[1].key),
    ):
        with pytest.raises(ConfigError, match=r"missing\.pem|nve1\.pem"):
            client_context(bad)

"""The NVE's configuration file, its start, and sequence numbers that outlive the process."""

from __future__ import annotations

import json

import pytest

from geneve.errors import ConfigError
from geneve.security.association import OutboundAssociation
from nve import sequence_file
from nve.__main__ import main
from nve.config import load_config
from nve.stats import StatsSocket
from tests.support import FULL, association, node_state


def document(**changes: object) -> dict:
    base = {
        "name": "nve1",
        "underlay": {"address": "192.168.1.1"},
        "vnis": [{"vni": 100, "ports": ["p1"]}],
        "static_state": node_state("nve1").to_wire(),
        "sequence_file": "numbers.json",
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def write(tmp_path, content: object, mode: int = 0o600):
    path = tmp_path / "nve.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def test_a_good_file_loads(tmp_path):
    config = load_config(write(tmp_path, document()))
    assert (config.underlay.port, config.underlay.mtu, config.dscp) == (6081, 1500, 0)
    inherit = document(underlay={"address": "192.168.1.1", "dscp": "inherit"})
    assert load_config(write(tmp_path, inherit)).dscp is None


NVA = {"name": "nva", "address": "192.168.0.100", "port": 6640, "ca": "a", "certificate": "b", "key": "c"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"static_state": None}, ["exactly one", "nva"]),
        ({"nva": NVA}, ["exactly one", "nva"]),
        ({"sequence_file": None}, ["sequence_file", "nonce"]),
        ({"name": "nve2"}, ["static_state", "nve2"]),
        ({"vnis": []}, ["vnis"]),
        ({"vnis": [{"vni": 100}, {"vni": 100}]}, ["vnis", "twice"]),
        ({"vnis": [{"vni": 100, "ports": ["a"]}, {"vni": 200, "ports": ["a"]}]}, ["vnis", "port"]),
        ({"vnis": [{"vni": 1 << 24}]}, ["vnis.0.vni"]),
        ({"vnis": [{"vni": 1, "ports": ["an/interface"]}]}, ["vnis.0.ports.0"]),
        ({"underlay": {"address": "192.168.1.999"}}, ["underlay.address"]),
        ({"underlay": {"address": "192.168.1.1", "dscp": 64}}, ["underlay.dscp"]),
        ({"underlay": {"address": "192.168.1.1", "mtu": 100}}, ["underlay.mtu", "1280"]),
        ({"colour": "red"}, ["colour", "unknown"]),
    ],
)
def test_each_fault_is_named_with_its_key(tmp_path, changes, words, capsys):
    path = write(tmp_path, document(**changes))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    for word in (str(path), *words):
        assert word in str(caught.value)
    assert main(["--config", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_with_secrets_must_not_be_open_to_others(tmp_path):
    with pytest.raises(ConfigError, match="chmod 600"):
        load_config(write(tmp_path, document(), mode=0o640))


def test_a_missing_file_and_one_that_is_not_text(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "binary")


def test_an_error_about_the_state_never_quotes_a_secret(tmp_path):
    state = node_state("nve1").to_wire()
    secret = state["outbound"][0]["secret"]
    state["outbound"][0]["secret"] = secret[:-4]
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, document(static_state=state)))
    assert "outbound.0.secret" in str(caught.value)
    assert secret[:8] not in str(caught.value)


# --- sequence numbers across restarts (invariant 4) ------------------------------------------


def end() -> OutboundAssociation:
    return OutboundAssociation(association(1000), FULL)


def test_a_restart_goes_on_behind_everything_that_may_have_been_used(tmp_path):
    path, numbers = tmp_path / "numbers", []
    for _ in range(3):
        process = end()
        sequence_file.reserve(path, [process])
        numbers += [process.reserve(1) for _ in range(2)]
    assert len(set(numbers)) == 6
    assert numbers == sorted(numbers)
    assert process.hard_limit == process.last_sequence - 2 + FULL.hard_limit // sequence_file.STARTS


@pytest.mark.parametrize("content", ["", "[]", '{"1000": -1}', '{"1000": "x"}', '{"1000": true}', "\xff"])
def test_a_damaged_file_stops_the_start(tmp_path, content):
    path = tmp_path / "numbers"
    path.write_text(content, encoding="latin-1")
    process = end()
    with pytest.raises(ConfigError, match="numbers"):
        sequence_file.reserve(path, [process])
    assert process.last_sequence == 0
    assert path.read_text(encoding="latin-1") == content, "what is there is not lost"


def test_numbers_that_cannot_be_written_down_are_not_used(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        sequence_file.reserve(tmp_path / "no" / "numbers", [end()])


def test_a_used_up_association_needs_a_new_key(tmp_path):
    path = tmp_path / "numbers"
    path.write_text(json.dumps({"1000": FULL.hard_limit - 5}))
    with pytest.raises(ConfigError, match="new SPI"):
        sequence_file.reserve(path, [end()])


@pytest.mark.parametrize("path", ["nul\0inside", "x" * 300])
def test_a_stats_path_that_cannot_be_is_one_sentence(path):
    with pytest.raises(ConfigError, match="stats"):
        StatsSocket(path)


def test_the_stats_socket_replaces_a_dead_one_and_nothing_else(tmp_path):
    path = tmp_path / "stats.sock"
    StatsSocket(str(path))._socket.close()
    StatsSocket(str(path)).close()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="stats"):
        StatsSocket(str(path))
    assert path.read_text() == "precious"

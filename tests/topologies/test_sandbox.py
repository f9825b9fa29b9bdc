"""What the sandbox says without ever being entered; the rest is in tests/live."""

from __future__ import annotations

import os

import pytest

from geneve.errors import ConfigError
from topologies import sandbox


def test_without_root_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match=r"^root is needed .*\.$"):
        sandbox.enter(["true"])


def test_an_inherited_variable_alone_does_not_mean_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_SANDBOX", "net:[1]")
    assert not sandbox.inside()
    assert not sandbox.within()


@pytest.mark.parametrize(
    ("mark", "own", "first", "inside", "within"),
    [
        ("net:[7]", "net:[7]", "net:[7]", True, True),  # the sandbox's own network
        ("net:[7]", "net:[8]", "net:[7]", False, True),  # a node in it
        ("net:[7]", "net:[8]", "net:[8]", False, False),  # the host, with a mark left over
        (None, "net:[8]", "net:[8]", False, False),  # the host
        ("net:[7]", "net:[7]", None, True, False),  # process 1 may not be looked at
    ],
)
def test_a_node_is_within_but_not_inside(
    monkeypatch: pytest.MonkeyPatch, mark: str | None, own: str, first: str | None, inside: bool, within: bool
) -> None:
    def readlink(path: str) -> str:
        namespace = {"/proc/self/ns/net": own, "/proc/1/ns/net": first}[path]
        if namespace is None:
            raise PermissionError(path)
        return namespace

    monkeypatch.setattr(os, "readlink", readlink)
    if mark is None:
        monkeypatch.delenv("TESTBED_SANDBOX", raising=False)
    else:
        monkeypatch.setenv("TESTBED_SANDBOX", mark)
    assert (sandbox.inside(), sandbox.within()) == (inside, within)

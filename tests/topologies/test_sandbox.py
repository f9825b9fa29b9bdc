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

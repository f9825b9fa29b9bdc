"""A kernel's states and policies, as far as the lines for ``ip`` change them, and what it would do with packets."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network

from nve.ipsec.xfrm import ABSENT, EXISTS, NO_ANSWER

_POLICY = re.compile(r"xfrm policy (\w+) src (\S+) dst (\S+) proto udp dport (\d+) dir (\w+)(.*)")


class Kernel:
    """Does lines. Those with a key of ``refusals`` in them it refuses with the words that belong to it.

    With ``answers`` false everything is done, and nobody says so.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.states: dict[str, str] = {}
        self.policies: dict[tuple[str, ...], str] = {}
        self.refusals: dict[str, str] = {}
        self.answers = True

    def __call__(self, line: str) -> str:
        self.lines.append(line)
        for words, reason in self.refusals.items():
            if words in line:
                return reason
        said = self._state(line) if line.startswith("xfrm state") else self._policy(line)
        return said if self.answers else NO_ANSWER

    @property
    def done(self) -> list[str]:
        """What each line since the last look does, without its arguments."""
        taken, self.lines = self.lines, []
        return [" ".join(line.split()[1:3]) for line in taken]

    def _state(self, line: str) -> str:
        action, rest = line.split()[2], line.split(maxsplit=3)[3]
        if action == "deleteall":
            end = " ".join(rest.split()[:2])
            self.states = {name: text for name, text in self.states.items() if end not in name}
            return ""
        words = rest.split()
        name = " ".join(words[:8])
        if action == "add":
            # The kernel knows a state by destination, protocol and SPI.
            if any(name.split()[2:] == held.split()[2:] for held in self.states):
                return EXISTS
            self.states[name] = line
        elif self.states.pop(name, None) is None:
            return ABSENT[0]
        return ""

    def _policy(self, line: str) -> str:
        if "deleteall" in line:
            self.policies = {name: text for name, text in self.policies.items() if "block" in text}
            return ""
        found = _POLICY.fullmatch(line)
        assert found is not None, line
        action, *name, rest = found.groups()
        if action == "update":
            self.policies[tuple(name)] = rest
        elif self.policies.pop(tuple(name), None) is None:
            return ABSENT[1]
        return ""

    def clear(self, way: str, source: str, destination: str, port: int = 6081) -> bool:
        """Whether a packet would pass in clear."""
        best: tuple[int, str] | None = None
        for (src, dst, dport, direction), rest in self.policies.items():
            fits = ip_address(source) in ip_network(src) and ip_address(destination) in ip_network(dst)
            if fits and (direction, int(dport)) == (way, port):
                priority = int(rest.split("priority ")[1].split()[0])
                best = min(best or (priority, rest), (priority, rest))
        return best is None or not ("block" in best[1] or "level required" in best[1])

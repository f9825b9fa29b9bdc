"""What of IPsec is in the kernel: put there and taken away line by line, so that nothing is ever in clear. Pure.

The order is what keeps packets from passing in clear (design invariant 6). Two policies that block all Geneve come
first, before there is a socket, and go last, after there is none. So what arrives before a pair has its policy is
dropped, and never waits in a socket's queue. A pair's policy comes in front of them; it demands IPsec, or drops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from geneve.errors import ConfigError
from nve.ipsec import xfrm
from nve.ipsec.xfrm import KernelSa

Key = tuple[bool, int]
"""Whether it is outbound, and the SPI: each direction has SPIs of its own."""


class Installed:
    """States and policies in the kernel, as far as is known. ``run`` does a line, and returns why not, or nothing.

    ``stuck`` are underlay addresses, 4 or 16 bytes, of peers with a state that had to go and could not be deleted: the
    kernel may still use it, so nothing is to be sent to them or taken from them.
    """

    def __init__(self, address: str, port: int, run: Callable[[str], str]) -> None:
        self._address, self._port, self._run = address, port, run
        self._blocked = self._owned = self._clean = False
        self._states: dict[Key, KernelSa] = {}
        self._policies: dict[str, None] = {}
        self._unsure: set[Key | str] = set()
        self._spent: set[Key] = set()
        self._wanted: dict[Key, KernelSa] = {}
        self.stuck: set[bytes] = set()

    def block(self) -> None:
        """Block all Geneve in clear; ConfigError when that is not to be had."""
        if not self._blocked:
            for line in xfrm.block_lines(self._address, self._port):
                self._must(line)
            self._blocked = True

    def take_over(self) -> None:
        """Remove what a process before left; ConfigError when it stays.

        Only with the port bound: until then an NVE that runs may live by all of it, and by what blocks.
        """
        self._owned = True
        if not self._clean:
            for line in xfrm.leftover_lines(self._address, self._port):
                self._must(line)
            self._clean = True

    def hold(self, wanted: Mapping[Key, KernelSa]) -> None:
        """Hold exactly these. ConfigError when they are not to be had: then nothing that was held has gone.

        What is new comes before what goes: in between, both can be opened. What cannot be deleted raises nothing; its
        peer is ``stuck`` until it can.
        """
        self.block()
        self.take_over()
        for key, sa in wanted.items():
            self._refuse_restart(key, sa)
        # Inbound first, so that the more is held when outbound ones come into use: that is at once.
        for key in sorted(wanted):
            self._add_state(key, wanted[key])
        for sa in wanted.values():
            self._add_policy(sa)
        self._wanted = dict(wanted)
        self.remove_rest()

    def _refuse_restart(self, key: Key, sa: KernelSa) -> None:
        """Refuse to make a state anew: its numbers and its window would start again (design invariants 4 and 5)."""
        held = self._states.get(key)
        if key in self._spent or (held is not None and held != sa):
            raise ConfigError(
                f"association {key[1]:#010x} changed for the kernel, or was taken from it before, and its sequence "
                "numbers would start again; use a fresh SPI and secret."
            )

    def _add_state(self, key: Key, sa: KernelSa) -> None:
        known = key in self._states
        if known and key not in self._unsure:
            return
        said = self._run(xfrm.add_state(sa))
        if said == xfrm.EXISTS and known:
            said = ""  # it was done the last time, when nobody answered
        if said in ("", xfrm.NO_ANSWER):
            self._states[key] = sa
        self._note(key, said)

    def _add_policy(self, sa: KernelSa) -> None:
        policy = sa.policy
        if policy in self._policies and policy not in self._unsure:
            return
        said = self._run(xfrm.add_policy(sa))
        if said in ("", xfrm.NO_ANSWER):
            self._policies[policy] = None
        self._note(policy, said)

    def _note(self, what: Key | str, said: str) -> None:
        if said == xfrm.NO_ANSWER:
            self._unsure.add(what)
        elif not said:
            self._unsure.discard(what)
        if said:
            raise ConfigError(f"the kernel refuses the IPsec associations ({said}); set 'ipsec: user-space'.")

    def _must(self, line: str) -> None:
        said = self._run(line)
        if said:
            raise ConfigError(f"the kernel's policies for IPsec cannot be set ({said}); set 'ipsec: user-space'.")

    def remove_rest(self) -> None:
        """Delete what is not to be held; what cannot be deleted is tried again with the next call."""
        going = {key: sa for key, sa in self._states.items() if key not in self._wanted}
        for key in going:
            if self._delete_state(key) == xfrm.NO_ANSWER:
                break  # each such try holds up the whole process
        self.stuck.clear()
        self.stuck.update(ip_address(self._states[key].far).packed for key in going if key in self._states)
        needed = {sa.policy for sa in self._states.values()}
        for policy in [policy for policy in self._policies if policy not in needed]:
            if self._delete_policy(policy) == xfrm.NO_ANSWER:
                break

    def _delete_state(self, key: Key) -> str:
        said = self._gone(xfrm.delete_state(self._states[key]))
        if not said:
            del self._states[key]
            self._unsure.discard(key)
            self._spent.add(key)
        return said

    def _delete_policy(self, policy: str) -> str:
        said = self._gone(xfrm.delete_policy(policy))
        if not said:
            del self._policies[policy]
            self._unsure.discard(policy)
        return said

    def _gone(self, line: str) -> str:
        """Delete; return why it may still be there. Not to be there any more is as good: the kernel ends states too."""
        said = self._run(line)
        return "" if said in xfrm.ABSENT else said

    def clear(self) -> None:
        """Take everything out of the kernel, after the sockets are closed; what blocks goes last.

        Nothing is raised, and where nobody answers, the rest stays: it blocks. So does all where the port was not had.
        """
        if not self._owned:
            return
        for said in self._clear():
            if said == xfrm.NO_ANSWER:
                return
        self._blocked = self._owned = self._clean = False

    def _clear(self) -> Iterable[str]:
        for key in list(self._states):
            yield self._delete_state(key)
        for policy in list(self._policies):
            yield self._delete_policy(policy)
        for line in xfrm.unblock_lines(self._address, self._port):
            yield self._gone(line)

"""The security policy (GSP): ordered rules, the first that matches decides, no match is DISCARD."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from geneve.control.profile import Profile
from geneve.control.rules import Action, Rule
from geneve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a flow: an action, and for SECURE the profile to apply."""

    action: Action
    profile: Profile | None = None


DISCARD = Decision(Action.DISCARD)


class Policy:
    """An ordered rule list, checked as a whole when it is made."""

    def __init__(self, rules: Iterable[Rule], profiles: Iterable[Profile]) -> None:
        """Raise ConfigError when a rule names a profile that is not given."""
        by_name = {profile.name: profile for profile in profiles}
        self._rules: list[tuple[int | None, Decision]] = []
        for number, rule in enumerate(rules):
            profile = None
            if rule.profile is not None:
                profile = by_name.get(rule.profile)
                if profile is None:
                    raise ConfigError(f"policy rule {number} names the unknown profile {rule.profile!r}.")
            self._rules.append((rule.vni, Decision(rule.action, profile)))
        self._cache: dict[int, Decision] = {}

    def decide(self, vni: int) -> Decision:
        """Return the decision for a virtual network; the cost does not depend on the number of rules."""
        decision = self._cache.get(vni)
        if decision is None:
            decision = next((d for selector, d in self._rules if selector in (None, vni)), DISCARD)
            if len(self._cache) < 4096:
                self._cache[vni] = decision
        return decision

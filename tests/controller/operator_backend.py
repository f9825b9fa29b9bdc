"""A stand-in for the shell behind the operators' interface, and a real core's views for the models."""

from __future__ import annotations

from typing import Any

from controller.operators.operations import Fault, Operation, OperationError, Rekey
from controller.operators.resources import MAX_EVENTS

NODE = {
    "name": "nve1", "role": "nve", "address": "192.168.1.1", "connected": True, "revoked": False, "instance": "abcd",
    "registered_s": 1.5, "sequence": 3, "in_step": True, "refusal": None,
}  # fmt: skip
ASSOCIATION = {
    "spi": 4711, "stage": "current", "role": "egress", "sender": "nve1", "audience": "nve2", "members": [], "vni": None,
    "rule": None, "profile": "full", "waiting": [], "age_s": 1.25,
}  # fmt: skip
MAPPING = {
    "vni": 100, "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1"], "nve": "nve1", "tag": 0, "static": True,
}  # fmt: skip
POLICY = {"profiles": [], "policy": [], "vnis": {"100": {"action": "bypass", "profile": None}}}


class FakeBackend:
    """Answers as the shell would, and remembers what it was told."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.audit: list[tuple[str, str, str]] = []
        self.fault: OperationError | None = None
        self.events: list[dict[str, Any]] = []
        self.policy_version = 3
        self.broken = False

    def operate(self, operation: Operation) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        self.operations.append(operation)
        return {"replaced": 2} if isinstance(operation, Rekey) else {"done": True}

    def view(self, name: str) -> dict[str, Any] | None:
        if self.broken:
            raise RuntimeError("a fault of ours, with a secret in it")
        views: dict[str, dict[str, Any]] = {
            "nodes": {"epoch": "e", "converged": True, "nodes": [NODE]},
            "tenants": {"tenants": []},
            "mappings": {"mappings": [MAPPING]},
            "policy": {"version": self.policy_version, "document": POLICY, "candidate": None, "rejected": None},
            "associations": {"associations": [ASSOCIATION]},
            "topology": {"switches": [], "links": [], "hosts": [], "paths": [], "complete": True},
            "flows": {"interval_s": 5.0, "spoofed_packets": 0, "switches": []},
            "events": {"events": self.events[-MAX_EVENTS:]},
        }
        return views.get(name)

    def events_after(self, number: int, limit: int) -> list[dict[str, Any]]:
        return [event for event in self.events if event["number"] > number][:limit]

    def refused(self, name: str, reason: str) -> None:
        self.audit.append(("refused", name, reason))

    def operated(self, name: str, text: str) -> None:
        self.audit.append(("operator", name, text))

    def happen(self, count: int = 1) -> None:
        """Let something happen."""
        for _ in range(count):
            number = len(self.events) + 1
            event = {"number": number, "time": 1e9 + number, "kind": "test", "node": "nve1", "text": f"event {number}"}
            self.events.append(event)

    def refuse(self, fault: Fault, text: str = "it cannot be done.") -> None:
        """Have every operation refused from now on."""
        self.fault = OperationError(fault, text)

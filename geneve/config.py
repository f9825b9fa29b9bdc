"""Strict configuration: YAML text in, a frozen, checked model out, or one sentence about what is wrong.

Unknown keys, duplicate keys, wrong types and values out of range are errors that name the file and
the key. JSON is accepted too, being a subset of YAML.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from geneve.errors import ConfigError


class StrictModel(BaseModel):
    """Base of all configuration and control-message models: frozen, strict types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


M = TypeVar("M", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe YAML loader that refuses a key given twice, which PyYAML would silently let win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML or JSON ``text``; ConfigError names ``source``, line and column of a syntax error."""
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader underneath
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}:{where}: {error.problem or 'not valid YAML'}; expected valid YAML.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML ({error}).") from None


def validate(data: Any, source: str, model: type[M]) -> M:
    """Check ``data`` against ``model``; ConfigError is one sentence about the first fault found.

    Values are read with JSON's rules, so that lists become tuples and strings enumerations, while a
    number in quotes or a text where a number belongs stays an error.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a mapping of keys to values, found {_kind(data)}.")
    try:
        text = json.dumps(data, default=str)
    except (TypeError, ValueError, RecursionError):
        raise ConfigError(f"{source}: expected plain texts as keys, and no part that contains itself.") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise ConfigError(f"{source}: {_sentence(dict(faults[0]), len(faults) - 1)}") from None


def load(text: str, source: str, model: type[M]) -> M:
    """Parse and check a configuration text; ConfigError names ``source`` and the key at fault."""
    return validate(parse_yaml(text, source), source, model)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _sentence(fault: dict[str, Any], more: int) -> str:
    location = ".".join(str(part) for part in fault["loc"]) or "the document"
    kind = fault["type"]
    if kind == "extra_forbidden":
        text = f"key '{location}' is unknown; remove it or correct its spelling."
    elif kind == "missing":
        text = f"key '{location}' is missing; add it."
    else:
        message = fault["msg"].removeprefix("Value error, ")
        if not message[:2].isupper():  # an acronym stays one
            message = message[:1].lower() + message[1:]
        text = f"key '{location}': {message}"
        given = fault.get("input")
        if isinstance(given, (str, int, float, bool)) and kind not in {"value_error", "assertion_error"}:
            text += f", found {given!r}"
        text += "."
    return text + (f" ({more} more faults follow.)" if more > 0 else "")

"""The two families of errors the package raises: bad packets and bad configuration."""

from __future__ import annotations


class ParseError(ValueError):
    """Bytes from the wire are not what the format allows.

    Every parser in this package raises this and nothing else on any input, so a caller needs one
    ``except`` clause and a fuzzer has one contract to check.
    """


class ConfigError(ValueError):
    """A configuration file or control message is not acceptable; the text is one sentence for a person."""

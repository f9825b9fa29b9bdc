"""``python -m transit --config FILE``: run a transit device."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from geneve.errors import ConfigError
from transit.config import load_config
from transit.daemon import TransitDaemon
from transit.relay import RelayError


def main(argv: list[str] | None = None) -> int:
    """Run the program; 0 after SIGTERM, 2 when what it was told is wrong."""
    parser = argparse.ArgumentParser(prog="python -m transit", description="A Geneve transit device.")
    parser.add_argument("--config", required=True, metavar="FILE", type=Path, help="YAML or JSON")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        daemon = TransitDaemon(load_config(options.config))
        try:
            daemon.run()
        finally:
            daemon.close()
    except (ConfigError, RelayError) as error:
        print(f"transit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

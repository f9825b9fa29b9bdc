"""``python -m nve --config FILE``: run an NVE, with an NVA or stand-alone."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from geneve.errors import ConfigError
from nve.config import load_config
from nve.daemon import NveDaemon
from nve.memberships import UnderlayError
from nve.tap import LinkError


def main(argv: list[str] | None = None) -> int:
    """Run the program; 0 after SIGTERM, 2 when what it was told is wrong or cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m nve", description="A Geneve network virtualization edge.")
    parser.add_argument("--config", required=True, metavar="FILE", type=Path, help="configuration, YAML or JSON")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        daemon = NveDaemon(load_config(options.config))
    except (ConfigError, LinkError, UnderlayError) as error:
        print(f"nve: {error}", file=sys.stderr)
        return 2
    try:
        daemon.run()
    finally:
        daemon.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

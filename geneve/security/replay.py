"""Anti-replay window over 64-bit sequence numbers, after the algorithm of RFC 6479."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from geneve.drops import DropReason

_BLOCK_BITS = 64


class ReplayWindow:
    """Remembers which sequence numbers were accepted, ``size`` of them below the highest.

    Asking (:meth:`check`) and recording (:meth:`commit`) are separate, because nothing may change
    before the tag has verified. ``size`` is a multiple of 64, from 64 to 65,536. Moving the window
    forward clears whole blocks instead of shifting bits, so its cost does not grow with its size.
    """

    __slots__ = ("_blocks", "_count", "highest", "size")

    def __init__(self, size: int = 1024) -> None:
        if not 64 <= size <= 65536 or size % _BLOCK_BITS:
            raise ValueError(f"a replay window of {size} is not a multiple of 64 from 64 to 65536")
        self.size = size
        self.highest = 0
        # One block more than the window: the block being filled must not share bits with its oldest part.
        self._count = size // _BLOCK_BITS + 1
        self._blocks = [0] * self._count

    def check(self, sequence: int) -> DropReason | None:
        """Return why ``sequence`` must be refused, or None; changes nothing. Numbers start at 1."""
        if sequence > self.highest:
            return None
        if sequence < 1 or sequence + self.size <= self.highest:
            return DropReason.BEHIND_WINDOW
        if self._blocks[(sequence >> 6) % self._count] >> (sequence & 63) & 1:
            return DropReason.REPLAYED
        return None

    def commit(self, sequence: int) -> None:
        """Record a number that :meth:`check` accepted and whose packet verified."""
        block = sequence >> 6
        if sequence > self.highest:
            ahead = block - (self.highest >> 6)
            if ahead == 1:
                self._blocks[block % self._count] = 0
            elif ahead:
                for fresh in range(max(block - ahead + 1, block - self._count + 1), block + 1):
                    self._blocks[fresh % self._count] = 0
            self.highest = sequence
        self._blocks[block % self._count] |= 1 << (sequence & 63)

    def all_ahead(self, sequences: Sequence[int]) -> bool:
        """Return whether each number is higher than the ones in front of it and all that were accepted.

        Then :meth:`check` accepts each, whichever of those in front of it were committed.
        """
        first, count = sequences[0], len(sequences)
        if first <= self.highest:
            return False
        if sequences[-1] - first == count - 1:
            return tuple(sequences) == tuple(range(first, first + count))
        return all(earlier < later for earlier, later in pairwise(sequences))

    def commit_all(self, sequences: Sequence[int]) -> None:
        """Record rising numbers, all higher than what was accepted; the same as :meth:`commit` for each."""
        if not sequences:
            return
        at, last = sequences[0], sequences[-1]
        if last - at >= len(sequences):
            for sequence in sequences:
                self.commit(sequence)
            return
        while at <= last:
            end = min(last, at | (_BLOCK_BITS - 1))
            self.commit(end)
            self._blocks[(end >> 6) % self._count] |= ((2 << (end - at)) - 1) << (at & 63)
            at = end + 1

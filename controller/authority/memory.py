"""What an earlier life of the NVA left, read from its records, and how associations and demands get into them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from controller.authority import records
from controller.authority.lines import DemandKey, Paths
from controller.authority.policies import PolicyBook, PolicyDocument, changed_profiles, document_of
from controller.authority.records import Journal, Saved
from controller.authority.spis import KEY_SIZE as SPI_KEY_SIZE
from controller.authority.spis import SpiSpace
from controller.inventory import Inventory
from geneve.config import validate
from geneve.control.state import Association


@dataclass(frozen=True)
class SavedPolicy:
    """The policy to start with. ``edited`` are the profiles whose contents are others than in the earlier life."""

    book: PolicyBook
    edited: frozenset[str]
    fresh: bool
    """Whether it is not in the records yet."""


def saved_policy(inventory: Inventory, saved: Saved) -> SavedPolicy:
    """Return the newest policy: the records', unless the inventory's own was edited since."""
    kept = saved.get(records.POLICY, {}).get("current")
    if kept is None:
        return SavedPolicy(PolicyBook(inventory), frozenset(), fresh=True)
    # Compared as models: the order in which a set was written says nothing.
    stored, origin = (
        validate(dict(kept[key]), "the store's policy", PolicyDocument) for key in ("document", "inventory")
    )
    version = int(kept["version"])
    if origin == document_of(inventory):
        return SavedPolicy(PolicyBook(inventory, version, stored), frozenset(), fresh=False)
    edited = changed_profiles(stored, document_of(inventory))
    return SavedPolicy(PolicyBook(inventory, version + 1), edited, fresh=True)


def keep_policy(journal: Journal, book: PolicyBook, inventory: Inventory) -> None:
    """Note the policy in force, and the inventory's own that it began with."""
    content = {
        "version": book.version,
        "inventory": document_of(inventory).model_dump(mode="json"),
        "document": book.document.model_dump(mode="json"),
    }
    journal.keep(records.POLICY, "current", content)


def saved_spis(saved: Saved, token: Callable[[int], bytes], journal: Journal) -> SpiSpace:
    """Return the SPIs that are left."""
    meta = saved.get(records.META, {})
    if "spi-key" in meta:
        key = bytes.fromhex(meta["spi-key"][records.SECRET_FIELD])
    else:
        key = token(SPI_KEY_SIZE)
        journal.keep(records.META, "spi-key", {records.SECRET_FIELD: key.hex()})
    start = int(meta.get("spi", {}).get("reserved", 0))
    return SpiSpace(key, start, lambda limit: journal.keep(*records.SPI_RECORD, {"reserved": limit}))


def saved_paths(saved: Saved) -> Paths:
    """Return the transit devices on the paths as they were."""
    pairs = saved.get(records.META, {}).get("paths", {}).get("pairs", [])
    return {(sender, other): tuple(devices) for sender, other, devices in pairs}


def keep_paths(journal: Journal, paths: Paths) -> None:
    """Note the transit devices on the paths."""
    pairs = [[*pair, list(devices)] for pair, devices in sorted(paths.items()) if devices]
    journal.keep(records.META, "paths", {"pairs": pairs})


def next_life(journal: Journal, saved: Saved) -> int:
    """Return the number of this life of the store, from 1, and note it."""
    life = int(saved.get(records.META, {}).get("life", {}).get("number", 0)) + 1
    journal.keep(records.META, "life", {"number": life})
    return life


def saved_associations(
    saved: Saved, fits: Callable[[Association], bool], now: float, utc_offset: float, journal: Journal
) -> Iterator[tuple[str, Association, float]]:
    """Yield the associations that still fit, each with its stage and when it was made; the others are dropped."""
    for spi, content in saved.get(records.ASSOCIATION, {}).items():
        fields = {key: value for key, value in content.items() if key not in ("stage", "created")}
        association = validate(fields, "the store's association", Association)
        if fits(association):
            # By UTC: the clock starts anew with each process, and what is due for replacement stays due.
            created = float(content.get("created", now + utc_offset)) - utc_offset
            yield str(content["stage"]), association, created
        else:
            journal.drop(records.ASSOCIATION, spi)


def saved_demands(saved: Saved) -> list[DemandKey]:
    """Return the demands as they were."""
    return [DemandKey(*content["demand"]) for content in saved.get(records.DEMAND, {}).values()]


class JournalRecorder:
    """Writes associations and demands into the journal. ``utc_offset`` is what turns the table's clock into UTC."""

    def __init__(self, journal: Journal, utc_offset: float) -> None:
        self._journal, self._utc_offset = journal, utc_offset

    def association(self, stage: str, association: Association, created: float) -> None:
        """Note an association, its stage, and when it was made."""
        content = association.model_dump(mode="json", context={"reveal_secrets": True})
        content |= {"stage": stage, "created": created + self._utc_offset}
        self._journal.keep(records.ASSOCIATION, str(association.spi), content)

    def association_gone(self, spi: int) -> None:
        """Note that an association has ended."""
        self._journal.drop(records.ASSOCIATION, str(spi))

    def demand(self, key: DemandKey) -> None:
        """Note a demand."""
        self._journal.keep(records.DEMAND, _demand_name(key), {"demand": list(key)})

    def demand_gone(self, key: DemandKey) -> None:
        """Note that a demand is no more."""
        self._journal.drop(records.DEMAND, _demand_name(key))


def _demand_name(key: DemandKey) -> str:
    return "|".join("" if part is None else str(part) for part in key)

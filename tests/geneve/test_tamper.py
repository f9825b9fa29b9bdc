"""Every bit flipped is refused, or lies in a field that the document lists as uncovered."""

from __future__ import annotations

import pytest

from tests.geneve.tamper import ACCEPTED, DOCUMENT, PROFILES, Site, document, flipped


@pytest.mark.parametrize("name", PROFILES)
def test_every_flip_is_refused_or_lies_in_an_uncovered_field(name):
    site = Site(name)
    assert site.nve(site.frame) == ACCEPTED
    fields = list(site.fields())
    bits = [bit for field in fields for bit in range(field.first, field.last + 1)]
    assert sorted(bits) == list(range(len(site.frame) * 8)), "every bit belongs to exactly one field"
    for field in fields:
        for bit in range(field.first, field.last + 1):
            end = site.nve(flipped(site.frame, bit, field.name))
            assert not (field.nve and end == ACCEPTED), f"{field.name}, bit {bit - field.first}"


@pytest.mark.parametrize("name", [name for name in PROFILES if Site(name).has_t1])
def test_every_flip_is_noticed_by_the_transit_device_or_is_not_its_own(name):
    site = Site(name)
    assert site.t1(site.frame) == ACCEPTED
    for field in site.fields():
        for bit in range(field.first, field.last + 1):
            end = site.t1(flipped(site.frame, bit, field.name))
            assert not (field.t1 and end == ACCEPTED), f"{field.name}, bit {bit - field.first}"


def test_what_is_listed_as_uncovered_is_really_uncovered():
    for name, uncovered in (
        ("headers encrypted", {"inner payload"}),
        ("headers authenticated", {"inner payload"}),
        ("subset of header and options", {"option 0x0102:0x12", "telemetry", "security groups", "Geneve reserved2"}),
    ):
        site = Site(name)
        for field in site.fields():
            if field.name in uncovered:
                ends = {site.nve(flipped(site.frame, bit, field.name)) for bit in range(field.first, field.last + 1)}
                assert ACCEPTED in ends, field.name


def test_the_document_is_what_happens():
    assert DOCUMENT.read_text() == document(), "run python -m tests.geneve.tamper"

"""The draft's requirements and its appendix, as transcribed."""

from __future__ import annotations

from collections import Counter

import pytest

from experiments.conformance import draft

LETTERS = {
    (draft.DTLS, draft.GEN): "Y Y N N N N N Y Y N N Y N Y N Y N",
    (draft.IPSEC, draft.GEN): "Y Y N N N Y Y Y Y N N Y N Y N Y Y",
    (draft.DTLS, draft.OP): "Y Y Y/N Y Y Y Y/N Y Y/N N",
    (draft.IPSEC, draft.OP): "Y Y Y Y Y Y Y/N Y Y/N Y",
}


@pytest.mark.parametrize(("protocol", "series"), LETTERS)
def test_letters_are_those_of_the_appendix_in_its_order(protocol, series):
    cells = [cell.letter for name, cell in draft.APPENDIX[protocol].items() if name.startswith(series)]
    assert " ".join(cells) == LETTERS[protocol, series]


def test_there_are_54_cells_for_27_requirements():
    names = [requirement.name for requirement in draft.REQUIREMENTS]
    assert names == [f"SEC-GEN-{n}" for n in range(1, 18)] + [f"SEC-OP-{n}" for n in range(1, 11)]
    assert all(list(cells) == names for cells in draft.APPENDIX.values())
    letters = Counter(cell.letter for cells in draft.APPENDIX.values() for cell in cells.values())
    assert letters == {draft.YES: 31, draft.NO: 18, draft.DEPENDS: 5}


def test_levels_are_those_of_section_5():
    weak = {requirement.name: requirement.level for requirement in draft.REQUIREMENTS if requirement.level != "MUST"}
    assert weak == {
        "SEC-GEN-2": "SHOULD", "SEC-GEN-9": "SHOULD", "SEC-OP-1": "SHOULD", "SEC-OP-6": "SHOULD",
        "SEC-OP-7": "SHOULD NOT", "SEC-OP-10": "SHOULD",
    }  # fmt: skip


def test_every_cell_says_where_it_stands_and_why():
    for protocol, section in ((draft.DTLS, "8.1"), (draft.IPSEC, "8.2")):
        for name, cell in draft.APPENDIX[protocol].items():
            assert cell.section == f"{section}.{2 if name.startswith(draft.GEN) else 1}"
            assert cell.reasoning.rstrip().endswith((".", ")"))
    assert len({requirement.title for requirement in draft.REQUIREMENTS}) == 27


def test_the_draft_judges_ipsec_once_and_neither_ours_nor_none():
    for requirement in draft.REQUIREMENTS:
        assert draft.judgement(requirement.name, "esp") is draft.judgement(requirement.name, "ah")
        assert draft.judgement(requirement.name, "ours") is draft.judgement(requirement.name, "none") is None

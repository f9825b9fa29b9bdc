"""The page and the terminal show what was found, and nothing in a file can become markup or a terminal's command."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from experiments.audit import page
from experiments.audit.__main__ import main
from experiments.audit.deployment import audit_deployment
from experiments.audit.result import AuditResult, Finding, Reason, Risk, Verdict, make_judgement
from tests.experiments.audit import captures
from topologies.scenario_file import scenario_path

HOSTILE = '"><script>alert(1)</script><img src=x onerror=\'y\'>&amp;\x1b[2J\u202e'


class Reader(HTMLParser):
    """Collects tags and attributes, and the text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta" and tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def hostile() -> AuditResult:
    judgements = tuple(
        make_judgement(f"SEC-OP-{n}", [Reason(Verdict.NOT_MET, f"reason {HOSTILE}", f"key {HOSTILE}")])
        for n in range(1, 11)
    )
    finding = Finding(f"name {HOSTILE}", Risk.HIGH, ("SEC-OP-1",), f"text {HOSTILE}", f"do {HOSTILE}", 3, (1, 2))
    inventory: dict[str, Any] = {
        "file": {"format": HOSTILE}, "talks": [{HOSTILE: HOSTILE, "packets": 1}],
        "vnis": [{"vni": {HOSTILE: [HOSTILE, [HOSTILE]]}}], "options": [], "flows": [{"flow": HOSTILE}],
    }  # fmt: skip
    return AuditResult("capture", f"file {HOSTILE}", judgements, (finding,), inventory)


def test_nothing_in_a_file_becomes_markup() -> None:
    read = Reader(page.render(hostile()))
    assert read.tags <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "b", "br", "code", "table", "thead", "tbody",
        "tr", "th", "td",
    }  # fmt: skip
    assert read.attributes <= {"lang", "charset", "http-equiv", "content", "class"}
    assert read.open == []
    assert read.text.count("<script>alert(1)</script>") > 20, "it is all there, as text"


def test_nothing_in_a_file_commands_the_terminal() -> None:
    lines = "\n".join(page.terminal_lines(hostile()))
    assert "alert(1)" in lines
    assert "\x1b" not in lines
    assert "\u202e" not in lines


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = page.render(audit_deployment("default"))
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@media print" in text
    assert "Nobody has evaluated" in text


def test_a_long_list_of_reasons_is_cut_on_the_page_only() -> None:
    reasons = [Reason(Verdict.NOT_MET, f"reason {n}.") for n in range(100)]
    result = AuditResult("deployment", "x", (make_judgement("SEC-OP-1", reasons),))
    assert "and 88 more" in page.render(result)
    assert len(result.as_dict()["requirements"][0]["reasons"]) == 100


def test_words_of_the_inventory_stay_whole_and_empty_columns_are_left_out() -> None:
    inventory: dict[str, Any] = {
        "file": {"link_types": [1, 147], "frames": 9, "damage": ""},
        "vnis": [
            {"vni": "100", "packets": 12345678, "control": {}, "sizes": {"bits": 1.5, "most_frequent": [[60, 2]]}},
        ],
        "options": [
            {"option": "0xff60:0x02", "owner": "somebody", "name": "0xff60:0x02 (somebody)", "example": "ab" * 30},
        ],
    }  # fmt: skip
    text = page.render(AuditResult("capture", "x", (), (), inventory))
    assert "Ethernet, 147" in text
    assert "damage" not in text
    assert "<th>control</th>" not in text
    assert '<th class="number">packets</th>' in text
    assert "60\u00a0x\u00a02" in text
    assert text.count("somebody") == 1
    assert f'<td class="long">{"ab" * 30}</td>' in text
    assert '<td class="number">12345678</td>' in text


def test_the_program_writes_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = tmp_path / "ovn <b>.pcap"
    capture.write_bytes(captures.pcap(captures.ovn()))
    html, document = tmp_path / "a.html", tmp_path / "a.json"
    assert main([str(capture), "--html", str(html), "--json", str(document)]) == 0
    out = capsys.readouterr().out
    assert "SEC-OP-10" in out
    assert "OVN" in out
    assert Reader(html.read_text()).open == []
    assert json.loads(document.read_text())["kind"] == "capture"


@pytest.mark.parametrize("source", ["deployment-good", str(scenario_path("small"))])
def test_the_program_takes_scenarios_by_name_and_file(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([source]) == 0
    assert "Of ten requirements" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "data"),
    [("gone.pcap", None), ("empty.pcap", b""), ("text.pcap", b"hello world"), ("bad.yaml", b"name: [")],
)
def test_what_cannot_be_read_ends_with_2_and_one_sentence(
    tmp_path: Path, name: str, data: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert main([str(tmp_path / name)]) == 2
    caught = capsys.readouterr()
    assert caught.err.count("\n") == 1
    assert name in caught.err
    assert caught.out == ""


def test_output_that_cannot_be_written_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deployment-good", "--html", str(tmp_path / "no" / "a.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_ports_are_checked(port: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["deployment-good", "--port", port])
    assert stopped.value.code == 2

"""An audit as one HTML page without foreign parts, for a screen or on paper, and as lines for a terminal.

Everything that comes from a capture or a scenario file is escaped; the page has no scripts.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

from experiments.audit.result import TITLES, AuditResult, Risk, Verdict
from experiments.underlay import LINK_NAMES

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1.2rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #bbb; }
table { border-collapse: collapse; width: 100%; font-size: 13px; margin: .8rem 0; }
th, td { border: 1px solid #ccc; padding: .25rem .5rem; text-align: left; vertical-align: top; }
th { background: #f2f2f2; } th.number { text-align: right; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.names { white-space: nowrap; } td.several { min-width: 9rem; } .long { overflow-wrap: anywhere; }
td.mark { white-space: nowrap; font-weight: 600; } td p { margin: 0 0 .2rem; }
.met { background: #e6f2e6; } .not-met { background: #fbe3e0; } .in-part { background: #fdf3d7; }
.cannot-be-known { background: #e8eef7; } .not-applicable { background: #f2f2f2; }
.high { background: #fbe3e0; } .medium { background: #fdf3d7; } .low { background: #f4f4ea; }
.information { background: #f2f2f2; }
.note { color: #444; } code { font-size: .88em; }
@media print { body { max-width: none; margin: 0; font-size: 11px; } table { font-size: 10px; }
  tr, .whole { break-inside: avoid; }
  th, td { padding: .2rem .3rem; } td.several { min-width: 7rem; } h2 { break-after: avoid; }
  td.mark { border-left: 4px solid #444; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

_SHOWN_REASONS = 12
"""Reasons of one requirement on the page; the JSON has all."""

_ABOUT = {
    "capture": "What a capture shows. It holds no risk analysis, no policy and no keys: no tag was verified, and "
    "'cannot be known' means what it says. Counts are of packets; numbers of packets are those that Wireshark shows.",
    "deployment": "What a scenario file says, requirement by requirement; the worst answer for any tenant counts.",
}

_LONG = 24
"""Letters without a space from which on a word may be broken anywhere: shorter ones keep columns readable."""
_SAID_TWICE = frozenset({"option", "owner"})
"""Columns that the page leaves out: an option's name has both in it."""

_TABLES = (
    ("talks", "Who talks to whom, with what"), ("vnis", "Virtual networks"), ("options", "Options"),
    ("keys", "Keys, as far as packets name them"), ("flows", "Largest flows"), ("tenants", "Tenants"),
)  # fmt: skip


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _mark(value: str) -> str:
    return f'<td class="mark {_text(value.replace(" ", "-"))}">{_text(value)}</td>'


def render(result: AuditResult) -> str:
    """Return the page."""
    parts = [
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Audit of {_text(result.source)}</title><style>{_STYLE}</style></head><body>",
        f'<h1>Geneve security audit</h1><p class="long"><code>{_text(result.source)}</code></p>',
        f'<p class="note">{_text(_ABOUT[result.kind])}</p>',
        f"<p>{_text(headline(result))}</p>", _requirements(result), _findings(result), _inventory(result.inventory),
        '<p class="note">Requirements: draft-mglt-nvo3-geneve-security-requirements-06.</p></body></html>',
    ]  # fmt: skip
    return "\n".join(part for part in parts if part) + "\n"


def headline(result: AuditResult) -> str:
    """Return the verdicts in one sentence."""
    counts = [(verdict, sum(item.verdict is verdict for item in result.judgements)) for verdict in Verdict]
    return "Of ten requirements: " + ", ".join(f"{count} {verdict.value}" for verdict, count in counts if count) + "."


def _requirements(result: AuditResult) -> str:
    rows = []
    for item in result.judgements:
        reasons = [
            f"<p>{_text(reason.text)}{f' <code>{_text(reason.key)}</code>' if reason.key else ''}</p>"
            for reason in item.reasons[:_SHOWN_REASONS]
        ]
        if len(item.reasons) > _SHOWN_REASONS:
            reasons.append(f"<p>and {len(item.reasons) - _SHOWN_REASONS} more</p>")
        title = f"<td><b>{_text(item.requirement)}</b> ({_text(item.level)})<br>{_text(TITLES[item.requirement])}</td>"
        rows.append(f"<tr>{title}{_mark(item.verdict.value)}<td>{''.join(reasons)}</td></tr>")
    head = "<tr><th>Requirement</th><th>Verdict</th><th>Why</th></tr>"
    return f"<h2>Requirements</h2><table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _findings(result: AuditResult) -> str:
    if not result.findings:
        return ""
    rows = []
    for item in result.findings:
        packets = ", ".join(map(str, item.packets)) + (", ..." if item.count > len(item.packets) > 0 else "")
        rows.append(
            f"<tr>{_mark(item.risk.value)}<td><b>{_text(item.text)}</b><p>{_text(item.action)}</p></td>"
            f"<td class=\"names\">{'<br>'.join(map(_text, item.requirements))}</td>"
            f"<td class=\"number\">{item.count or ''}</td>"
            f"<td>{_text(packets)}</td></tr>"
        )
    head = "<tr><th>Risk</th><th>What, and what to do</th><th>Touches</th><th class=\"number\">Packets</th>"
    head += "<th>First</th></tr>"
    return f"<h2>Findings</h2><table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _inventory(inventory: dict[str, Any]) -> str:
    parts = []
    if "file" in inventory:
        there = {name: value for name, value in inventory["file"].items() if value not in (None, "")}
        if "link_types" in there:
            there["link_types"] = [LINK_NAMES.get(number, number) for number in there["link_types"]]
        rows = "".join(f"<tr><th>{_text(_label(k))}</th>{_cell(_plain(v))}</tr>" for k, v in there.items())
        parts.append(f'<h2>The file</h2><table class="whole"><tbody>{rows}</tbody></table>')
    for name, title in _TABLES:
        if inventory.get(name):
            parts.append(f"<h2>{_text(title)}</h2>{_table(inventory[name])}")
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if "name" not in names or name not in _SAID_TWICE]
    names = [name for name in names if any(row.get(name) not in (None, "", {}, []) for row in rows)]
    head = "".join(f"<th{_number(rows[0].get(name))}>{_text(_label(name))}</th>" for name in names)
    body = "".join(f"<tr>{''.join(_cell(row.get(name)) for name in names)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _label(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:
    text = _plain(value)
    if isinstance(value, dict) and len(value) > 1:
        kind = ' class="several"'
    else:
        kind = ' class="long"' if any(len(word) > _LONG for word in text.split()) else ""
    return f"<td{_number(value) or kind}>{_text(text)}</td>"


def _number(value: Any) -> str:
    return ' class="number"' if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def _plain(value: Any) -> str:
    """Return a value of the inventory in words."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        there = [(name, item) for name, item in value.items() if item not in (None, {})]
        return "; ".join(f"{_label(str(name))}: {_plain(item)}" for name, item in there)
    if isinstance(value, (list, tuple)):
        return ", ".join("\u00a0x\u00a0".join(map(str, i)) if isinstance(i, list) else _plain(i) for i in value)
    return str(value)


def terminal_lines(result: AuditResult, findings: int = 12) -> Iterable[str]:
    """Yield lines for a terminal: the verdicts, their first reason, and the riskiest findings."""
    yield f"{_printable(result.source)}: {headline(result)}"
    for item in result.judgements:
        yield f"  {item.requirement:<10} {item.verdict.value:<16} {_printable(TITLES[item.requirement])}"
        if item.verdict is not Verdict.MET and item.reasons:
            first = item.reasons[0]
            yield f"  {'':<27} {_printable(first.text)}{f' [{_printable(first.key)}]' if first.key else ''}"
    shown = [item for item in result.findings if item.risk is not Risk.INFORMATION or item.name == "damaged-file"]
    if shown:
        yield "Findings:"
    for finding in shown[:findings]:
        where = f" (frames {', '.join(map(str, finding.packets))})" if finding.packets else ""
        yield f"  {finding.risk.value:<12}{finding.count or '':>9}  {_printable(finding.text)}{where}"
    if len(shown) > findings:
        yield f"  and {len(shown) - findings} more; --html or --json shows all."


def _printable(text: str) -> str:
    """Return ``text`` without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)

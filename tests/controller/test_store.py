"""The store on disk: what is committed is there, what is secret is sealed, what is wrong is said in one sentence."""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller import store as stores
from controller.authority.records import ASSOCIATION, META, NODE, AuditLine, Drop, Keep
from controller.store import Store, StoreError, load_key
from geneve.errors import ConfigError

ROOT = Path(__file__).parents[2]
KEY = bytes(range(32))
SECRET = base64.b64encode(bytes(range(100, 132))).decode()


def keep(name: str, **content: Any) -> Keep:
    return Keep(ASSOCIATION, name, content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nva.db"


def files(path: Path) -> bytes:
    """Everything on disk: the database, its log, its index."""
    return b"".join(item.read_bytes() for item in sorted(path.parent.glob(path.name + "*")))


def refuse(make: Any, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_what_was_committed_is_there_in_the_next_life(path: Path) -> None:
    store = Store(path, KEY)
    assert store.load() == {}
    store.commit([keep("300", secret=SECRET, stage="current", members=["a"], rule=None), Keep(NODE, "n", {"x": 1})])
    store.commit([keep("300", secret=SECRET, stage="retiring"), keep("301", a="ä"), Drop(NODE, "n"), Drop(NODE, "z")])
    store.close()
    again = Store(path, KEY)
    expected = {ASSOCIATION: {"300": {"secret": SECRET, "stage": "retiring"}, "301": {"a": "ä"}}}
    assert again.load() == expected
    assert again.load() == expected


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([META, NODE]), st.sampled_from("abc"), st.none() | st.text(max_size=20), st.booleans()
        ),
        max_size=20,
    )
)
def test_the_store_is_a_dictionary(steps: list[tuple[str, str, str | None, bool]]) -> None:
    store, expected = Store(None, KEY), dict[str, dict[str, Any]]()
    for kind, name, text, sealed in steps:
        if text is None:
            store.commit([Drop(kind, name)])
            expected.get(kind, {}).pop(name, None)
        else:
            content = {"secret" if sealed else "plain": text}
            store.commit([Keep(kind, name, content)])
            expected.setdefault(kind, {})[name] = content
    assert {k: dict(v) for k, v in store.load().items()} == {k: v for k, v in expected.items() if v}


def test_no_secret_is_on_disk_in_any_form(path: Path) -> None:
    store = Store(path, KEY)
    raw = [os.urandom(32) for _ in range(200)]
    for number, secret in enumerate(raw):
        store.commit([keep(str(number), secret=base64.b64encode(secret).decode(), stage="offered")])
        store.commit([keep(str(number), secret=base64.b64encode(secret).decode(), stage="current")])
        if number % 2:
            store.commit([Drop(ASSOCIATION, str(number))])
    for data in (files(path), (store.close(), files(path))[1]):
        assert len(data) > 4096
        for secret in raw:
            forms = [secret, base64.b64encode(secret)[:40], secret.hex().encode(), secret.hex().upper().encode()]
            assert not [form for form in forms if form in data]
        assert KEY not in data
        assert KEY.hex().encode() not in data


def test_the_same_secret_sealed_twice_does_not_show_that_it_is_the_same(path: Path) -> None:
    store = Store(path, KEY)
    sealed = set()
    for _ in range(3):
        store.commit([keep("300", secret=SECRET)])
        (text,) = store._connection.execute("SELECT content FROM record").fetchone()
        sealed.add(json.loads(text)["secret"])
    assert len(sealed) == 3


def test_another_key_opens_nothing(path: Path) -> None:
    Store(path, KEY).commit([keep("300", secret=SECRET)])
    refuse(Store(path, bytes(32)).load, "nva.db", "key file")


def change(path: Path, name: str, content: Any) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE record SET content = ? WHERE name = ?", (json.dumps(content), name))
    connection.close()


def contents(path: Path) -> dict[str, Any]:
    connection = sqlite3.connect(path)
    found = {name: json.loads(text) for name, text in connection.execute("SELECT name, content FROM record")}
    connection.close()
    return found


def test_sealed_secrets_cannot_change_places(path: Path) -> None:
    store = Store(path, KEY)
    store.commit([keep("300", secret=SECRET), keep("301", secret=SECRET[::-1])])
    store.close()
    held = contents(path)
    change(path, "300", held["301"])
    refuse(Store(path, KEY).load, "nva.db")


@pytest.mark.parametrize("damage", ["", "AAAA", "not base64!", "A" * 200])
def test_a_damaged_secret_is_found_out(path: Path, damage: str) -> None:
    store = Store(path, KEY)
    store.commit([keep("300", secret=SECRET)])
    store.close()
    change(path, "300", {"secret": damage})
    refuse(Store(path, KEY).load, "nva.db")


@pytest.mark.parametrize("content", ["5", '"secret"', "[]", "{", '{"secret": 5}', '{"secret": null}'])
def test_a_damaged_record_is_one_sentence(path: Path, content: str) -> None:
    store = Store(path, KEY)
    store.commit([keep("300", secret=SECRET)])
    store._connection.execute("UPDATE record SET content = ?", (content,))
    refuse(store.load, "nva.db")


# Files ----------------------------------------------------------------------------------------------------


def test_the_files_are_the_owners_only_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(path, load_key(path.with_name("nva.key")))
        store.commit([keep("300", secret=SECRET)])
        modes = {item.name: item.stat().st_mode & 0o777 for item in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert {"nva.db", "nva.key", "nva.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}, modes


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o610])
def test_files_open_to_others_are_refused(path: Path, mode: int) -> None:
    key = path.with_name("nva.key")
    Store(path, load_key(key)).close()
    for item, use in ((path, lambda: Store(path, KEY)), (key, lambda: load_key(key))):
        item.chmod(mode)
        refuse(use, item.name, "chmod 600")
        item.chmod(0o600)
        use()


def test_a_key_once_made_stays(path: Path) -> None:
    made = load_key(path)
    assert len(made) == stores.KEY_SIZE
    assert load_key(path) == made
    assert load_key(path.with_name("other")) != made


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "00" * 33, "é"])
def test_what_is_no_key_is_refused(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    refuse(lambda: load_key(path), "nva.db")


def test_what_is_no_database_or_cannot_be_one_is_refused(path: Path) -> None:
    path.write_text("this is no database, but long enough to be taken for something" * 20)
    path.chmod(0o600)
    refuse(lambda: Store(path, KEY), "nva.db")
    refuse(lambda: Store(path.parent / "none" / "x.db", KEY), "x.db")
    refuse(lambda: Store(path.parent, KEY), str(path.parent))
    refuse(lambda: load_key(path.parent / "none" / "x.key"), "x.key")


def test_a_database_of_a_later_program_is_refused_and_left_alone(path: Path) -> None:
    store = Store(path, KEY)
    store._connection.execute("PRAGMA user_version = 7")
    store.close()
    refuse(lambda: Store(path, KEY), "version 7")
    refuse(lambda: Store(path, KEY), "version 7")


# Failures -------------------------------------------------------------------------------------------------


def test_all_or_nothing(path: Path) -> None:
    store = Store(path, KEY)
    store.commit([keep("300", stage="offered")])
    with pytest.raises(TypeError):
        store.commit([keep("300", stage="current"), keep("301", stage=object())])
    store.commit([keep("302", stage="offered")])
    store.close()
    assert set(Store(path, KEY).load()[ASSOCIATION]) == {"300", "302"}
    assert contents(path)["300"] == {"stage": "offered"}


def test_a_full_disk_is_one_sentence_and_nothing_is_half_written(path: Path) -> None:
    store = Store(path, KEY)
    store.commit([keep("300", stage="offered")])
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreError, match=r"nva\.db: cannot be written"):
        store.commit([keep("300", stage="current"), *(keep(str(number), text="x" * 3000) for number in range(50))])
    assert store.load()[ASSOCIATION] == {"300": {"stage": "offered"}}
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.commit([keep("300", stage="current")])
    assert store.load()[ASSOCIATION] == {"300": {"stage": "current"}}


def test_a_database_that_became_read_only_is_one_sentence(path: Path) -> None:
    store = Store(path, KEY)
    store._connection.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreError, match="cannot be written"):
        store.commit([keep("300", stage="current")])


def test_a_database_that_another_process_holds_is_one_sentence(path: Path) -> None:
    store = Store(path, KEY)
    store._connection.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="cannot be written"):
        store.commit([keep("300", stage="current")])
    other.execute("ROLLBACK")
    other.close()
    store.commit([keep("300", stage="current")])


WRITER = """
import itertools, sys
from pathlib import Path
from controller.authority.records import AuditLine, Keep
from controller.store import Store
store = Store(Path(sys.argv[1]), bytes(range(32)))
for number in itertools.count(1):
    both = {"number": number, "secret": str(number) * 50}
    line = AuditLine(number, 0.0, "x", "", str(number))
    store.commit([Keep("node", "first", both), line, Keep("node", "second", both)])
    print(number, flush=True)
"""


def test_killed_amid_its_writes_it_has_all_that_it_said_it_had_and_nothing_half(path: Path) -> None:
    for _ in range(4):
        argv = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(60):
                said = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                said = int(line) if line.endswith("\n") else said
        store = Store(path, KEY)
        nodes = store.load()[NODE]
        assert nodes["first"] == nodes["second"]
        assert int(nodes["first"]["number"]) >= said
        assert nodes["first"]["secret"] == str(nodes["first"]["number"]) * 50
        assert store.audit_after(nodes["first"]["number"] - 1, 5)[0].text == str(nodes["first"]["number"])
        (verdict,) = store._connection.execute("PRAGMA integrity_check").fetchone()
        assert verdict == "ok"
        store.close()


# The audit log --------------------------------------------------------------------------------------------


def line(number: int) -> AuditLine:
    return AuditLine(number, number / 2, "kind", "nve1", f"text {number}")


def test_the_audit_log_is_read_in_order_and_in_parts(path: Path) -> None:
    store = Store(path, KEY)
    assert (store.last_audit_number(), store.audit_after(0, 10)) == (0, [])
    store.commit([line(number) for number in (1, 2, 3)])
    store.commit([line(3), line(4)])
    store.close()
    store = Store(path, KEY)
    assert store.last_audit_number() == 4
    assert store.audit_after(1, 2) == [line(2), line(3)]
    assert store.audit_after(4, 2) == []


def test_the_oldest_lines_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_AUDIT_LINES", 2000)
    store = Store(None, KEY)
    for start in range(1, 6001, 500):
        store.commit([line(number) for number in range(start, start + 500)])
    (count,) = store._connection.execute("SELECT count(*) FROM audit").fetchone()
    assert 2000 <= count <= 3000
    assert store.last_audit_number() == 6000


def test_reserved_spis_are_on_the_disk_before_they_are_given_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "nva.sqlite", bytes(32))
    modes = []
    connection = store._connection

    def level() -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    store.commit([Keep("node", "nve1", {})])
    modes.append(level())
    store.commit([Keep("node", "nve1", {}), Keep("meta", "spi", {"reserved": 1024})])
    modes.append(level())
    store.commit([Keep("node", "nve2", {})])
    modes.append(level())
    assert modes == [1, 2, 1], "1 is NORMAL, 2 is FULL"


def test_a_key_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ConfigError, match=r"store\.key"):
        load_key(tmp_path / "store.key")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert load_key(tmp_path / "store.key") == load_key(tmp_path / "store.key")

"""The store: nothing twice, nothing lost, two processes at once, and one clear line when the disk is against us."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys

import pytest

from dosafe.errors import MeasureError, UserError
from dosafe.store import LOOKUP, Answer, Store, generation_key

SAMPLING = {"greedy": True, "max_new_tokens": 8, "stop": []}
ENGINE = {"name": "hf", "version": "1", "mode": "merged", "precision": "bf16"}
BY = "hf 1 merged bf16"


def keys(n: int) -> list[str]:
    return [generation_key("rev", None, [1, i], SAMPLING, ENGINE) for i in range(n)]


def answers(n: int, text: str = "answer") -> dict[str, Answer]:
    return {key: Answer(f"{text} {i}", i, "stop" if i % 2 else "length") for i, key in enumerate(keys(n))}


def test_what_is_put_comes_back(tmp_path):
    wanted = answers(2 * LOOKUP + 3)
    with Store(tmp_path / "sub" / "s.sqlite") as store:
        store.put_many(wanted, "rev", None, BY)
    with Store(tmp_path / "sub" / "s.sqlite") as store:
        assert store.get_many([*keys(2 * LOOKUP + 3), "unknown"]) == wanted
        assert store.get_many([]) == {}


def test_everything_that_decides_an_answer_is_in_its_key():
    base = ("rev", None, [1, 2], SAMPLING, ENGINE)
    others = [
        ("rev2", *base[1:]),
        ("rev", "fp", *base[2:]),
        ("rev", None, [1, 3], *base[3:]),
        ("rev", None, [1, 2], {**SAMPLING, "max_new_tokens": 9}, ENGINE),
        ("rev", None, [1, 2], {**SAMPLING, "stop": ["\n"]}, ENGINE),
        *(("rev", None, [1, 2], SAMPLING, {**ENGINE, key: "x"}) for key in ENGINE),
    ]
    found = {generation_key(*values) for values in (base, *others)}
    assert len(found) == len(others) + 1
    assert generation_key(*base) == generation_key("rev", None, [1, 2], dict(reversed(SAMPLING.items())), ENGINE)


def test_the_first_answer_stays_and_failed_ones_are_not_kept(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        store.put_many(answers(2), "rev", None, BY)
        store.put_many(answers(3, "other"), "rev", None, BY)
        assert [a.text for a in store.get_many(keys(3)).values()] == unordered(["answer 0", "answer 1", "other 2"])
        store.put_many({"k": Answer("", 0, failed="too long")}, "rev", None, BY)
        assert store.get_many(["k"]) == {}


class unordered(list):  # noqa: N801
    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and sorted(self) == sorted(other)


def test_a_plan_stays_until_its_run_has_ended(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        assert store.plan("run", [["a", "b"], ["c"]]) == [["a", "b"], ["c"]]
        assert store.plan("run", [["c"]]) == [["a", "b"], ["c"]]
        assert store.planned("run")
        store.end_plan("run")
        assert not store.planned("run")
        assert store.plan("run", [["c"]]) == [["c"]]


def test_a_chunk_is_written_whole_or_not_at_all(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        bad = answers(3) | {"bad": Answer(None, 1)}  # type: ignore[arg-type]
        with pytest.raises(MeasureError, match="cannot write to the store"):
            store.put_many(bad, "rev", None, BY)
        assert store.get_many(keys(3)) == {}
        store.put_many(answers(3), "rev", None, BY)
        assert len(store.get_many(keys(3))) == 3


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_written(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        store.put_many(answers(5), "rev", None, BY)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(MeasureError, match=r"full.*what was written before is kept") as caught:
            store.put_many({f"k{i}": Answer("x" * 4000, 1) for i in range(50)}, "rev", None, BY)
        assert "\n" not in str(caught.value)
        assert len(store.get_many(keys(5))) == 5


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "s.sqlite").write_text("this is not a database, and it is long enough to be seen as one" * 20)
    with pytest.raises(UserError, match="cannot use the store"):
        Store(tmp_path / "s.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(UserError, match="cannot use the store"):
        Store(tmp_path / "folder.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot use the store"):
        Store(tmp_path / "file" / "s.sqlite")


def test_a_later_store_is_refused(tmp_path):
    with Store(tmp_path / "s.sqlite"):
        pass
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(UserError, match=r"schema 9.*newer dosafe"):
        Store(tmp_path / "s.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(UserError, match="cannot use the store"):
            Store(tmp_path / "s.sqlite")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_store_that_cannot_be_written_to_is_one_clear_error(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        store.put_many(answers(2), "rev", None, BY)
        store._db.execute("PRAGMA query_only = 1")
        with pytest.raises(MeasureError, match="readonly"):
            store.put_many(answers(3), "rev", None, BY)
        assert len(store.get_many(keys(3))) == 2


def test_two_processes_share_a_store(tmp_path):
    script = (
        "import sys; from pathlib import Path; from dosafe.store import Answer, Store\n"
        "with Store(Path(sys.argv[1])) as s:\n"
        "    for c in range(0, 400, 10):\n"
        "        s.put_many({f'{i}': Answer(sys.argv[2], 1) for i in range(c, c + 20)}, 'r', None, 'e')\n"
    )
    path = tmp_path / "s.sqlite"
    running = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in ("a", "b")]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    with Store(path) as store:
        found = store.get_many(map(str, range(410)))
    assert len(found) == 410
    assert {answer.text for answer in found.values()} <= {"a", "b"}


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "mine.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (a)")
    with pytest.raises(UserError, match="no store of dosafe"):
        Store(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_a_store_damaged_inside_is_one_clear_error(tmp_path):
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store.put_many({f"{i:05}": Answer("x" * 500, 1) for i in range(200)}, "rev", None, BY)
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xa5" * (len(data) - 8192)
    path.write_bytes(data)
    with pytest.raises((MeasureError, UserError), match="store") as caught, Store(path) as store:
        store.get_many(f"{i:05}" for i in range(200))
    assert "\n" not in str(caught.value)


def test_two_connections_of_one_process_see_each_other(tmp_path):
    with Store(tmp_path / "s.sqlite") as one, Store(tmp_path / "s.sqlite") as two:
        one.put_many(answers(2), "rev", None, BY)
        assert two.get_many(keys(2)) == answers(2)
        assert two.plan("run", [["a"]]) == one.plan("run", [["b"]]) == [["a"]]


def test_many_open_a_new_store_at_once(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from dosafe.store import Store\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for i in range(30): Store(Path(sys.argv[1]) / f'{i}.sqlite').close()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:  # all are waiting: let them go
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err


class Locked:
    """A connection that says "locked" a few times, as when another process switches the same new file to WAL."""

    def __init__(self, times: int, said: str = "database is locked") -> None:
        self.left, self.said = times, said

    def execute(self, statement: str) -> None:
        self.left -= 1
        if self.left >= 0:
            raise sqlite3.OperationalError(self.said)


def test_a_switch_to_wal_waits_for_another_but_not_for_ever(tmp_path, monkeypatch):
    with Store(tmp_path / "s.sqlite") as store:
        db = store._db
        monkeypatch.setattr(store, "_db", Locked(3))
        store._to_wal()
        monkeypatch.setattr(store, "_db", Locked(1, "disk I/O error"))
        with pytest.raises(sqlite3.OperationalError, match="disk"):
            store._to_wal()
        monkeypatch.setattr("dosafe.store.BUSY_SECONDS", -1.0)
        monkeypatch.setattr(store, "_db", Locked(1))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            store._to_wal()
        monkeypatch.setattr(store, "_db", db)

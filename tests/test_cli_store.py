"""``dosafe store`` as a user meets it: what is there, what would go, what goes, what is taken out, and what is refused."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_adapters import write
from test_records import record

from dosafe.adapters import fingerprint
from dosafe.cli.main import main
from dosafe.records import write_record
from dosafe.store import DAY, Answer, Likelihood, Store

HF, VLLM = "hf 5.1 merged bf16", "vllm 0.32.0 lora bf16"
ONE, TWO = "1a" * 32, "2b" * 32
FILE = Path("records") / "store.sqlite"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line in a folder with a store; return exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    fill(FILE)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dosafe", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return call


def fill(file: Path) -> None:
    """Two bases, two adapters, two engines; one row for each digit of its key."""
    with Store(file) as store:
        store.put_many({"0": Answer("zero\u2028", 3), "1": Answer("one", 4, "length")}, "rev-a", None, HF)
        store.put_many({"2": Answer("two", 5), "3": Likelihood(-1.5, True)}, "rev-a", ONE, HF)
        store.put_many({"4": Answer("four", 6)}, "rev-a", TWO, VLLM)
        store.put_many({"5": Answer("five", 7)}, "rev-b", None, VLLM)
        store.put_many({"6": Answer("six", 8)}, "rev-b", ONE, "")
    with sqlite3.connect(file) as db:
        db.execute("UPDATE generations SET made = 0 WHERE key = '6'")  # as an earlier dosafe left it
        db.execute("UPDATE generations SET made = 1700000000 WHERE key = '5'")  # 2023-11-14, 22:13:20 UTC
    db.close()


def keys(file: Path = FILE) -> str:
    with Store(file) as store:
        return "".join(sorted(row["key"] for row in store.rows()))


def assert_one_line(result, *parts):
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert err.startswith("dosafe: ")
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err


FILTERS = [
    (["--adapter", "base"], "015"),
    (["--adapter", "1a1a"], "236"),
    (["--adapter", "1A1A"], "236"),
    (["--adapter", TWO], "4"),
    (["--adapter", "ff"], ""),
    (["--base", "rev-b"], "56"),
    (["--base", "tiny@rev-b"], "56"),
    (["--engine", "vllm"], "45"),
    (["--engine", "vllm 0.32.0"], "45"),
    (["--engine", "vllm 0.32"], ""),
    (["--before", "2023-11-15"], "56"),
    (["--before", "2023-11-14"], "6"),
    (["--earlier"], "6"),
    (["--base", "rev-a", "--adapter", "base"], "01"),
    (["--earlier", "--base", "rev-a"], ""),
]


@pytest.mark.parametrize(("filters", "gone"), FILTERS)
def test_prune_removes_what_fits_and_only_when_told(run, filters, gone):
    code, out, err = run("store", "prune", *filters)
    assert code == 0, err
    assert f"would remove {len(gone)} row" in out
    assert ("give --yes" in err) is bool(gone)
    assert keys() == "0123456"
    code, out, err = run("store", "prune", *filters, "--yes")
    assert (code, err) == (0, "")
    assert f"removed {len(gone)} row" in out
    assert keys() == "".join(key for key in "0123456" if key not in gone)


@pytest.mark.parametrize(("filters", "taken"), [*((f, t) for f, t in FILTERS if t), ([], "0123456")])
def test_export_takes_out_what_fits(run, filters, taken):
    code, out, err = run("store", "export", "--out", "out.jsonl", *filters)
    assert code == 0, err
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().split("\n")[:-1]]
    assert "".join(sorted(line["key"] for line in lines)) == taken
    assert out == f"out.jsonl: {len(taken)} row{'' if len(taken) == 1 else 's'}\n"
    assert err.count("\n") == 1
    assert "may be harmful" in err
    assert "must not be published" in err
    assert keys() == "0123456"


def test_an_export_holds_the_whole_rows_and_is_private(run):
    before = os.umask(0o022)
    try:
        run("store", "export", "--out", "sub/out.jsonl")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("sub/out.jsonl").stat().st_mode) == 0o600
    lines = {line["key"]: line for line in map(json.loads, Path("sub/out.jsonl").read_text().split("\n")[:-1])}
    made = lines["2"].pop("made")
    assert abs(made - time.time()) < DAY
    assert lines["2"] == {
        "key": "2",
        "base": "rev-a",
        "adapter": ONE,
        "engine": HF,
        "answer": "two",
        "tokens": 5,
        "finish": "stop",
    }
    assert lines["0"]["answer"] == "zero\u2028"
    assert lines["0"]["adapter"] is None
    assert (lines["3"]["logprob"], bool(lines["3"]["greedy"])) == (-1.5, True)


def test_an_export_overwrites_only_when_told(run):
    Path("out.jsonl").write_text("mine")
    assert_one_line(run("store", "export", "--out", "out.jsonl"), "out.jsonl exists", "--force")
    assert Path("out.jsonl").read_text() == "mine"
    Path("out.jsonl").chmod(0o644)
    code, _, _ = run("store", "export", "--out", "out.jsonl", "--force")
    assert code == 0
    assert Path("out.jsonl").read_text().count("\n") == 7
    assert stat.S_IMODE(Path("out.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_an_export_never_takes_the_place_of_the_store(run, end):
    assert_one_line(run("store", "export", "--out", f"records/../{FILE}{end}", "--force"), "is the store itself")
    Path("link").symlink_to(f"{FILE}{end}")
    assert_one_line(run("store", "export", "--out", "link", "--force"), "is the store itself")
    assert keys() == "0123456"


def test_an_export_of_nothing_writes_nothing(run):
    assert_one_line(
        run("store", "export", "--out", "out.jsonl", "--adapter", "ff"), "no rows of", "nothing was written"
    )
    assert not Path("out.jsonl").exists()


def test_an_export_that_cannot_be_written_leaves_what_was_there(run):
    with Store(FILE) as store:
        store.put_many({f"x{i}": Answer("x" * 1000, 1) for i in range(300)}, "rev-a", None, HF)
    Path("out.jsonl").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "dosafe", "store", "export", "--out", "out.jsonl", "--force"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert_one_line((done.returncode, done.stdout, done.stderr), "cannot write out.jsonl", "File too large")
    assert Path("out.jsonl").read_text() == "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["out.jsonl", "records"]


def test_stat_as_a_table(run):
    with Store(FILE) as store:
        store.plan("old", [["a"]])
        store.plan("new", [["b"]])
        store._db.execute("UPDATE plans SET made = made - ? WHERE id = 'old'", (2 * DAY,))
    code, out, err = run("store", "stat")
    assert (code, err) == (0, "")
    assert "7 rows" in out
    assert "1 plan of runs cut off" in out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    today = rows[0][-1]
    assert rows == [
        ["rev-a", "base", HF, "generation", "2", "7", today, today],
        ["rev-a", ONE[:12], HF, "generation", "1", "5", today, today],
        ["rev-a", ONE[:12], HF, "likelihood", "1", "0", today, today],
        ["rev-a", TWO[:12], VLLM, "generation", "1", "6", today, today],
        ["rev-b", "base", VLLM, "generation", "1", "7", "2023-11-14", "2023-11-14"],
        ["rev-b", ONE[:12], "(an earlier dosafe)", "generation", "1", "8", "-", "-"],
    ]


def test_stat_as_json(run):
    code, out, _ = run("store", "stat", "--json", "--store", FILE)
    found = json.loads(out)
    assert code == 0
    assert (found["store"], found["old_plans"]) == (str(FILE), 0)
    assert found["bytes"] >= FILE.stat().st_size
    assert sum(one["rows"] for one in found["held"]) == 7
    assert {"base", "adapter", "engine", "kind", "rows", "tokens", "first", "last"} == set(found["held"][0])


def test_stat_of_an_empty_store(run):
    Store(Path("new.sqlite")).close()
    code, out, _ = run("store", "stat", "--store", "new.sqlite")
    assert code == 0
    assert "0 rows" in out


def test_markup_in_a_store_is_shown_as_it_is(run):
    with Store(FILE) as store:
        store.put_many({"7": Answer("", 0)}, "rev[/red]", None, "[bold]e")
    _, out, _ = run("store", "stat")
    assert "rev[/red]" in out
    assert "[bold]e" in out


def test_an_adapter_may_be_named_by_its_folder(run):
    folder = write(Path("mine"))
    with Store(FILE) as store:
        store.put_many({"7": Answer("seven", 1)}, "rev-a", fingerprint(folder), HF)
    code, _, err = run("store", "prune", "--adapter", "mine", "--yes")
    assert code == 0, err
    assert keys() == "0123456"


def test_prune_keeps_what_records_name(run):
    def kept(base: str, adapter: str | None) -> None:
        one = record()
        who = one.identity.model_copy(update={"base_revision": base, "adapter": adapter})
        write_record(one.model_copy(update={"identity": who}), [], Path("records"))

    kept("rev-a", None)
    kept("rev-a", ONE)
    code, out, err = run("store", "prune", "--keep-records", "records")
    assert (code, "would remove 3 rows" in out) == (0, True), err
    run("store", "prune", "--keep-records", "records", "--yes")
    assert keys() == "0123"


def test_records_that_cannot_be_read_remove_nothing(run):
    Path("none").mkdir()
    assert_one_line(run("store", "prune", "--keep-records", "none", "--yes"), "no records in none")
    assert_one_line(run("store", "prune", "--keep-records", "nowhere", "--yes"), "no such file or folder: nowhere")
    write_record(record(), [], Path("records"))
    Path("records/broken.json").write_text("{")
    assert_one_line(run("store", "prune", "--keep-records", "records", "--yes"), "broken.json", "not JSON")
    assert keys() == "0123456"


def test_prune_gives_the_space_back_and_forgets_old_plans(run):
    with Store(FILE) as store:
        store.put_many({f"x{i}": Answer("x" * 4000, 1) for i in range(300)}, "rev-c", None, HF)
        store.plan("old", [["a"]])
        store.plan("new", [["b"]])
        store._db.execute("UPDATE plans SET made = made - ? WHERE id = 'old'", (2 * DAY,))
        before = store.size()
    code, out, _ = run("store", "prune", "--base", "rev-c", "--yes")
    assert code == 0
    assert "removed 300 rows, 1 plan of" in out
    with Store(FILE) as store:
        assert store.size() < before / 4
        assert (store.planned("old"), store.planned("new")) == (False, True)
    assert keys() == "0123456"


@pytest.mark.parametrize("yes", [[], ["--yes"]])
def test_prune_without_a_filter_is_refused(run, yes):
    assert_one_line(run("store", "prune", *yes), "nothing says which rows", "give a filter")
    assert keys() == "0123456"


@pytest.mark.parametrize(
    ("filters", "parts"),
    [
        (["--adapter", "mine"], ["--adapter 'mine'", "fingerprint"]),
        (["--adapter", ""], ["--adapter ''"]),
        (["--base", "rev"], ["more than one base", "rev-a, rev-b"]),
        (["--base", "other"], ["of no base in the store", "rev-a, rev-b"]),
        (["--base", ""], ["of no base in the store"]),
        (["--base", "tiny@"], ["of no base in the store"]),
        (["--engine", " "], ["--engine is empty"]),
        (["--before", "yesterday"], ["--before", "yesterday", "%Y-%m-%d"]),
    ],
)
def test_bad_filters(run, filters, parts):
    assert_one_line(run("store", "prune", "--yes", *filters), *parts)
    assert_one_line(run("store", "export", "--out", "out.jsonl", *filters), *parts)
    assert keys() == "0123456"
    assert not Path("out.jsonl").exists()


VERBS = [["stat"], ["prune", "--adapter", "base", "--yes"], ["export", "--out", "out.jsonl"]]


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_that_is_not_there_is_not_made(run, verb):
    assert_one_line(run("store", *verb, "--store", "sub/none.sqlite"), "no store sub/none.sqlite", "--store FILE")
    assert not Path("sub").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_another_file_is_refused_and_left_alone(run, verb):
    with sqlite3.connect("mine.sqlite") as db:
        db.execute("CREATE TABLE generations (a)")
    db.close()
    before = Path("mine.sqlite").read_bytes()
    assert_one_line(run("store", *verb, "--store", "mine.sqlite"), "mine.sqlite is an SQLite file, but no store")
    assert Path("mine.sqlite").read_bytes() == before
    Path("text").write_text("no database, and long enough to be seen as one" * 20)
    assert_one_line(run("store", *verb, "--store", "text"), "cannot use the store text")
    assert_one_line(run("store", *verb, "--store", "records"), "cannot use the store records")
    assert not Path("out.jsonl").exists()

"""Ten kills with -9 at random moments, resumed each time: are the records those of an uninterrupted run?

    python benchmarks/kill_resume.py [--engine hf|vllm] [--kills 10] [--seed 0]

One evaluation is killed again and again until it has been killed ten times, and then left to end. The engine writes
down when a chunk begins; a chunk that began and is not in the store at the kill is lost.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import machine, make_adapters, table

CHUNK = 16


def child(given: dict[str, Any]) -> None:
    """Evaluate, and write down each chunk that begins."""
    from dosafe.bases import resolve_base
    from dosafe.config.suite import Suite
    from dosafe.engines.build import build_engine
    from dosafe.evaluation import evaluate

    base = resolve_base(given["base"])
    engine = build_engine(given["engine"], base)
    generate = engine.generate

    def noted(requests: Sequence[Any]) -> Iterator[Any]:
        with Path(given["began"]).open("a") as file:
            file.write(f"{len(requests)}\n")
        return generate(requests)

    engine.generate = noted  # type: ignore[method-assign]
    suite = Suite(name="kill", version=1, data="mini", tasks=("harmi", "xstest_safe"), max_new_tokens=given["tokens"])
    evaluate(
        list(map(Path, given["adapters"])), base, suite, ["plain"], Path(given["out"]), engine, given["limit"],
        chunk=CHUNK,
    )  # fmt: skip


def answers(out: Path) -> int:
    import sqlite3

    file = out / "store.sqlite"
    if not file.is_file():
        return 0
    with sqlite3.connect(file) as db:
        found = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'generations'").fetchone()[0]
        return int(db.execute("SELECT count(*) FROM generations").fetchone()[0]) if found else 0


def records(out: Path) -> dict[str, Any]:
    """Return all that was recorded but the times."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*.json*")):
        name = str(path.relative_to(out))
        if path.suffix == ".json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "timing"}
        else:
            found[name] = path.read_bytes()
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="hf")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="dosafe-kill-"))
    adapters = make_adapters(given.base, given.adapters, work / "adapters")

    def command(out: Path) -> list[str]:
        options = {
            "base": given.base, "engine": given.engine, "adapters": list(map(str, adapters)), "out": str(out),
            "limit": given.limit, "tokens": given.tokens, "began": str(out.with_suffix(".began")),
        }  # fmt: skip
        return [sys.executable, __file__, "--child", json.dumps(options)]

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole = work / "whole"
    started = time.perf_counter()
    subprocess.run(command(whole), check=True, **quiet)
    length = time.perf_counter() - started

    def began(out: Path) -> list[int]:
        file = out.with_suffix(".began")
        return list(map(int, file.read_text().split())) if file.is_file() else []

    total = answers(whole)
    chunks = len(began(whole))
    draw = random.Random(given.seed)
    out = work / "killed"
    rows: list[list[object]] = []
    while len(rows) < given.kills:
        before, begun = answers(out), len(began(out))
        process = subprocess.Popen(command(out), **quiet)
        # Up to the time that a whole run takes: some kills meet the start, some the middle of a chunk. A run that gets
        # far is killed soon after it begins to write, so that there is something left for the later ones.
        limit = time.perf_counter() + draw.uniform(0.5, length)
        while time.perf_counter() < limit and answers(out) < before + CHUNK * draw.randint(1, 2):
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 2.0))
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = answers(out)
        in_flight = began(out)[begun:]
        lost = sum(in_flight) - (after - before)
        rows.append(
            [len(rows) + 1, before, after, len(in_flight), f"{lost} answers ({-(-lost // CHUNK)} chunk)"]
            + (["ended before the kill"] if ended else [""])
        )
    left = answers(out)
    subprocess.run(command(out), check=True, **quiet)
    print(f"engine {given.engine}, {given.adapters} adapters and their base, {total} answers in {chunks} chunks of")
    print(f"{CHUNK}, {given.kills} kills, {total - left} answers left for the last run")
    print(machine())
    print(table(["kill", "in the store before", "after", "chunks begun", "lost", ""], rows))
    same = records(out) == records(whole)
    print(f"records and verdicts but for the times: {'identical' if same else 'DIFFERENT'}")
    print(f"answers in the store: {answers(out)} and {total}")
    sys.exit(not same)


if __name__ == "__main__":
    main()

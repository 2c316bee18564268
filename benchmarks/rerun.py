"""A finished evaluation, run again: seconds, and whether a model was loaded.

python benchmarks/rerun.py [--engine hf|vllm] [--adapters 8]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from common import child, machine, make_adapters, table

CHILD = """
import json, resource, sys, time
started = time.perf_counter()
import dosafe.evaluation, dosafe.bases, dosafe.board, dosafe.cli.evaluate, dosafe.config.load
import torch, transformers, lm_eval.tasks, lm_eval.api.task, peft, rich.progress
imported = time.perf_counter()
from dosafe.cli.main import cli
cli.main(json.loads(sys.argv[1]), prog_name="dosafe", standalone_mode=False)
ended = time.perf_counter()
loaded = sorted({name for name in sys.modules if name.startswith("transformers.models.") and ".modeling_" in name})
print("SEEN", json.dumps({
    "imports": imported - started, "rest": ended - imported, "modeling": loaded, "vllm": "vllm" in sys.modules,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="hf")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--limit", type=int, default=20)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="dosafe-rerun-"))
    adapters = make_adapters(given.base, given.adapters, work / "adapters")
    command = ["eval", *map(str, adapters), "--base", given.base, "--suite", "mini", "--tasks", "harmi,harmq,xstest"]
    command += ["--template", "plain", "--limit", str(given.limit), "--max-new-tokens", "16"]
    command += ["--engine", given.engine, "--out", str(work / "out")]
    rows = []
    for name in ("first", "again", "again"):
        output = child([sys.executable, "-c", CHILD, json.dumps(command)], {"HF_HUB_OFFLINE": "1"}).output
        seen = json.loads(output.rpartition("SEEN")[2].partition("\n")[0])
        rows.append(
            [name, f"{seen['imports']:.1f}", f"{seen['rest']:.1f}", f"{seen['peak_mb']:.0f}",
             ", ".join(seen["modeling"]) or "none", "yes" if seen["vllm"] else "no"]
        )  # fmt: skip
    print(f"{given.adapters} adapters and their base, {3 * given.limit + given.limit} prompts, engine {given.engine}")
    print(machine())
    header = ["run", "imports (s)", "beyond imports (s)", "peak MB", "model code imported", "vllm imported"]
    print(table(header, rows))


if __name__ == "__main__":
    main()

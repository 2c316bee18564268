"""Peak resident set for a few and for many adapters: it must not grow with their number.

python benchmarks/memory.py [--engines hf,vllm:merged,vllm:lora] [--counts 8,64]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from common import child, machine, make_adapters, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", default="hf,vllm:merged,vllm:lora")
    parser.add_argument("--counts", default="8,64")
    parser.add_argument("--base", default="smollm2-135m")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="dosafe-memory-"))
    counts = list(map(int, given.counts.split(",")))
    adapters = make_adapters(given.base, max(counts), work / "adapters")
    size = sum(path.stat().st_size for path in adapters[0].iterdir()) / 2**20
    env = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")}
    rows = []
    for engine in given.engines.split(","):
        name, _, mode = engine.partition(":")
        peaks = []
        for count in counts:
            command = [sys.executable, "-m", "dosafe", "eval", *map(str, adapters[:count]), "--base", given.base]
            command += ["--suite", "mini", "--tasks", "harmi", "--limit", "8", "--max-new-tokens", "8"]
            command += ["--template", "plain", "--engine", name, "--out", str(work / f"{name}{mode}{count}")]
            peaks.append(child([*command, *(["--mode", mode] if mode else [])], env).peak_mb)
        rows.append([engine, *(f"{peak:.0f}" for peak in peaks), f"{peaks[-1] - peaks[0]:+.0f}"])
    print(f"peak resident set in MB; an adapter is {size:.1f} MB on disk")
    print(machine())
    print(table(["engine", *(f"{count} adapters" for count in counts), "growth"], rows))


if __name__ == "__main__":
    main()

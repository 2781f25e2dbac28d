"""The whole job on this machine, on the CPU: profile, search under a budget, export, compare.

The budget is set from the start network (ResNet-18's shape, slim): HEADWAY times its predicted latency.
Ends with one table and exits non-zero when the winner's measured latency is above the budget. Everything
goes to `demo/`; rendered scenes are kept for the next time, all else starts anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HOME = Path("demo")
HEADWAY = 1.35


def spnas_hw(*arguments: str, capture: bool = False) -> str:
    """Runs one command as a user would, showing it first; ends the demo when it fails."""
    print(f"\n$ spnas-hw {' '.join(arguments)}", flush=True)
    program = Path(sys.executable).with_name("spnas-hw")
    stdout = subprocess.PIPE if capture else None
    wide = {**os.environ, "COLUMNS": os.environ.get("COLUMNS", "100")}
    done = subprocess.run([program, *arguments], cwd=HOME, text=True, stdout=stdout, env=wide)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.strip().splitlines()[-1] if capture else ""


def main() -> None:
    os.chdir(Path(__file__).parent.parent)
    started = time.time()
    HOME.mkdir(exist_ok=True)
    for old in ("build", "latency_tables", "runs"):
        shutil.rmtree(HOME / old, ignore_errors=True)

    spnas_hw("data", "synthesize")
    spnas_hw("profile", "--calibration", "16", "--out", "latency_tables")
    start = json.loads(spnas_hw("predict", "b16_11-21-21-21", "--json", capture=True))
    print(f"start network: {start['latency_ms']:.3f} ms predicted; the budget is {HEADWAY} times that")
    budget = f"{HEADWAY * start['latency_ms']:.2f}"
    spnas_hw("search", "--latency-ms", budget, "--run", "runs/demo", "--baseline")
    spnas_hw("export", "runs/demo", "--baseline")
    spnas_hw("export", "runs/demo", "--compute-capability", "8.9", "--allow-over-budget")
    spnas_hw("report", "runs/demo")
    found = json.loads(spnas_hw("report", "runs/demo", "--json", capture=True))

    winner = found["rows"][-1]
    measured, limit = winner["measured_latency_ms"], winner["budget_latency_ms"]
    print(f"\nfigure {HOME / found['figure']}; {(time.time() - started) / 60:.1f} minutes in all")
    if measured > limit:
        sys.exit(f"the winner measures {measured:.3f} ms, above its budget of {limit:g} ms")
    print(f"the winner measures {measured:.3f} ms, within its budget of {limit:g} ms")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""`make bench`: how long things take on a test host, each against something bare in the same run.

Prints a table and writes build/bench.json: {"rows": [{"name", "value", "unit", "against", "ratio"}]}.
Only the ratios carry over from one machine to another.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTHOST = ROOT / "tests" / "host" / "testhost"
NAME = "bench"
FOLDER = Path(__file__).parent
MANY_UNITS = ",".join(["7x1g.5gb"] * 8)
VENV = "/usr/lib/ds01/venv/bin/python"


def testhost(*argv: str) -> str:
    """A testhost command on the bench host; its stdout."""
    command, *rest = argv
    return subprocess.run(
        [TESTHOST, command, "--name", NAME, *rest], check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def measured(*scripts: tuple[str, str], options: tuple[str, ...] = ()) -> tuple[list[dict[str, object]], float]:
    """The rows of scripts on a fresh host, each run by a Python of it; seconds that it took to boot."""
    testhost("down")
    begun = time.monotonic()
    testhost("up", *options)
    boot_s = time.monotonic() - begun
    rows: list[dict[str, object]] = []
    try:
        testhost("copy", str(FOLDER), ":/root/bench")
        for name, python in scripts:
            rows += json.loads(testhost("exec", "--", python, "-B", f"/root/bench/{name}"))
    finally:
        testhost("down")
    return rows, boot_s


def main() -> int:
    """Boot, measure inside, tell."""
    rows, boot_s = measured(("inside.py", "python3"), ("policy.py", VENV))
    rows += measured(("grants.py", VENV), ("starts.py", VENV), options=("--gpus", MANY_UNITS))[0]
    rows.insert(
        0, {"name": "test host, image cached", "value": round(boot_s, 2), "unit": "s", "against": "", "ratio": None}
    )
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:6.2f} x {row['against']}"
        print(f"{row['name']:56} {row['value']:9.2f} {row['unit']:4} {ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

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


def testhost(*argv: str) -> str:
    """A testhost command on the bench host; its stdout."""
    command, *rest = argv
    return subprocess.run(
        [TESTHOST, command, "--name", NAME, *rest], check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def main() -> int:
    """Boot, measure inside, tell."""
    testhost("down")
    begun = time.monotonic()
    testhost("up")
    boot_s = time.monotonic() - begun
    try:
        rows = []
        for name, python in (("inside.py", "python3"), ("policy.py", "/usr/lib/ds01/venv/bin/python")):
            testhost("copy", str(Path(__file__).parent / name), f":/root/{name}")
            rows += json.loads(testhost("exec", "--", python, f"/root/{name}"))
    finally:
        testhost("down")
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

"""The thread that hears of Xids ends its process rather than to hear of nothing in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, time
from pathlib import Path
from ds01.common.errors import Unavailable
from ds01.nvml.notes import XidNotes
from ds01.nvml.watch import XidWatch

class Reader:
    def events(self):
        raise {error}("no answer")

XidWatch(Reader(), XidNotes(Path(sys.argv[1])), pause_s=0.01).start()
time.sleep(0.5)
print("alive")
"""


def watch(tmp_path: Path, error: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(error=error), str(tmp_path)]
    path = str(Path(__file__).parents[3] / "build" / "typing")
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_fault_of_ours_ends_the_process(tmp_path: Path) -> None:
    done = watch(tmp_path, "ValueError")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'xids' died" in done.stderr


def test_nvml_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    done = watch(tmp_path, "Unavailable")
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")

"""What this machine has to share out: CPUs, memory, room for processes."""

from __future__ import annotations

import os
from pathlib import Path

from ds01.common.policy.kinds import Machine


def read_machine(proc: Path = Path("/proc")) -> Machine:
    """The machine as the kernel describes it. Raises OSError where /proc can't be read."""
    lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    memory_kib = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:"))
    limits = (proc / "sys/kernel" / name for name in ("threads-max", "pid_max"))
    tasks = min(int(path.read_text(encoding="ascii")) for path in limits)
    return Machine(os.cpu_count() or 1, memory_kib * 1024, tasks)

"""A host of simulated GPUs in a folder, and programs that use NVML on it. For tests outside the test host."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIBRARY_FOLDER = ROOT / "build" / "fakenvml"
ANSWER_TIMEOUT_S = 20.0


def build_library() -> Path:
    """The folder with libnvidia-ml.so.1, compiled if its source changed."""
    subprocess.run(["make", "-s", "-C", HERE, f"BUILD={LIBRARY_FOLDER}"], check=True, timeout=120)
    return LIBRARY_FOLDER


class Probe:
    """A running program that answers NVML expressions; see probe.py."""

    def __init__(self, topology: Path, library_folder: Path | None, notes: Path) -> None:
        environment = {**os.environ, "FAKEGPU_TOPOLOGY": str(topology), "PYTHONPATH": str(ROOT / "build" / "typing")}
        environment["FAKEGPU_NOTES"] = str(notes)
        environment["LD_LIBRARY_PATH"] = str(library_folder or "")
        command = [sys.executable, str(HERE / "probe.py")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, bufsize=0)

    def send(self, expression: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(expression.encode() + b"\n")

    def answers_within(self, timeout_s: float) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], timeout_s)[0])

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert self.answers_within(ANSWER_TIMEOUT_S), "the probe does not answer"
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def ask(self, expression: str) -> dict[str, Any]:
        self.send(expression)
        return self.receive()

    def value(self, expression: str) -> Any:
        """The expression's value; an NVML error fails the test."""
        found = self.ask(expression)
        assert "value" in found, f"{expression}: {found}"
        return found["value"]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class FakeHost:
    """The file tree of a host; `fakegpu` works on it as root would on a real one."""

    def __init__(self, root: Path, spec: str) -> None:
        self.root = root
        self.topology = root / "run/fakegpu/topology"
        self._probes: list[Probe] = []
        self.notes = root / "run/ds01-nvml"
        self.notes.mkdir(parents=True)
        (root / "etc/fakegpu").mkdir(parents=True)
        self.configure(spec)

    def configure(self, spec: str) -> None:
        (self.root / "etc/fakegpu/site").write_text(spec + "\n", encoding="utf-8")

    def attempt(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(HERE / "fakegpu"), "--root", str(self.root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def fakegpu(self, *arguments: str) -> str:
        done = self.attempt(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def boot(self) -> None:
        """As after power-on, with the site's units done."""
        self.fakegpu("boot")
        self.fakegpu("mig-apply")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.fakegpu("status", "--json"))
        return found

    def probe(self, library_folder: Path | None = LIBRARY_FOLDER) -> Probe:
        probe = Probe(self.topology, library_folder, self.notes)
        self._probes.append(probe)
        return probe

    def close(self) -> None:
        for probe in self._probes:
            probe.close()

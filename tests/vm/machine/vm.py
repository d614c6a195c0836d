"""A running VM as a test holds it: the same words as for a host under systemd-nspawn, on a kernel of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lib import host, mounts, ready, session, talk
from lib.places import CACHE, HostError
from lib.running import Entry, Result, ours, read_journal, said, words_of

from machine import accel, disklog, image, qemu
from machine.accel import Accel
from machine.door import Door
from machine.qemu import VmPlaces

VMS = CACHE / "vms"
_UP_WITHIN_S = {Accel.KVM: 120.0, Accel.TCG: 300.0}
_DOWN_WITHIN_S = 150.0
_TAIL = 40


class RunningVm:
    """One VM. Every method speaks to the boot that is up now."""

    def __init__(self, name: str, places: VmPlaces, runs_on: Accel, key: Path) -> None:
        self.name = name
        self.places = places
        self.accel = runs_on
        self._door = Door(key)
        self._qemu: subprocess.Popen[bytes] | None = None
        self._kept: dict[str, VmSession] = {}

    @classmethod
    def boot(cls, name: str) -> RunningVm:
        """Builds what is missing and boots a VM from it; returns when every unit is active.

        Raises:
            HostError: it did not boot; the text ends with its console.
        """
        files = image.ensure()
        places = VmPlaces(VMS / name)
        shutil.rmtree(places.folder, ignore_errors=True)
        places.folder.mkdir(parents=True)
        for source, target in ((files.kernel, places.kernel), (files.initrd, places.initrd), (files.base, places.base)):
            os.link(source, target)  # a reboot finds them, whatever becomes of the cache
        mounts.copy_disk(files.disk, places.disk)
        vm = cls(name, places, accel.serving(places.kernel, places.initrd), files.key)
        try:
            vm._power_on()
        except BaseException:
            vm.end()
            raise
        return vm

    def root(self, argv: Sequence[str] | str, *, stdin: str | bytes = b"", check: bool = True) -> Result:
        """Runs a command as root in no session: quick, for looking and arranging."""
        words = words_of(argv)
        raw_in = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(self._door.argv(words), input=raw_in, capture_output=True)
        if check:
            assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{said(done.stdout, done.stderr)}"
        return Result(words, done.returncode, done.stdout, done.stderr)

    def run(
        self,
        user: str,
        argv: Sequence[str] | str,
        *,
        stdin: str | bytes = b"",
        check: bool = True,
        timeout_s: float = 120,
    ) -> Result:
        """Runs a command, or a line for `sh -c`, in a login session of the user.

        Raises:
            AssertionError: it failed although `check` is set, or ran longer than `timeout_s`.
        """
        process = self.start(user, argv)
        try:
            out, err = process.communicate(stdin.encode() if isinstance(stdin, str) else stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as exc:
            process.end("KILL")
            out, err = process.communicate()
            raise AssertionError(f"{process.argv} took more than {timeout_s} s; it said:\n{said(out, err)}") from exc
        result = Result(process.argv, process.returncode, out, err)
        if check:
            assert result.status == 0, f"{user}: {result.argv} ended with {result.status}:\n{said(out, err)}"
        return result

    def start(self, user: str, argv: Sequence[str] | str) -> VmSession:
        """Starts a command in a login session of the user; its pipes are the caller's.

        He stays logged in besides until the next boot: his service manager takes seconds to come up.
        """
        if user not in self._kept:
            self._kept[user] = VmSession(self._door, user, ("sleep", "infinity"))
        return VmSession(self._door, user, words_of(argv))

    def shell(self) -> None:
        """Gives this terminal a shell of root's."""
        subprocess.run(self._door.argv(["bash", "--login"], tty=True), check=False)

    def write(self, path: str, text: str | bytes) -> None:
        """Writes a file as root."""
        self.root(["sh", "-c", 'cat > "$1"', "sh", path], stdin=text)

    def read(self, path: str) -> str:
        """A file's text, as root."""
        return self.root(["cat", "--", path]).out

    def now_s(self) -> float:
        """The VM's own clock."""
        return float(self.root(["date", "+%s.%N"]).out)

    def reboot(self) -> None:
        """A clean reboot; returns when every unit is active again."""
        assert self._qemu is not None
        self.root(["systemctl", "reboot"], check=False)
        self._qemu.wait(_DOWN_WITHIN_S)
        self._power_on()

    def cut_power(self) -> None:
        """Pulls the plug, loses what the disk was not asked to flush, and boots; returns when every unit is active."""
        self._kill()
        disklog.replay_flushed(self.places.writes, self.places.before)
        self.places.before.replace(self.places.disk)
        self._power_on()

    def journal(self, *matches: str, since_s: float | None = None) -> list[Entry]:
        """The entries of this boot, our namespace included, that match; `since_s` is a time of the VM's clock."""
        return read_journal(self._call, matches, since_s)

    def warnings(self, since_s: float) -> list[Entry]:
        """What our units said, or systemd of them, at priority warning or above."""
        return ours(self.journal("--priority=warning", since_s=since_s))

    def save_logs(self, folder: Path, name: str) -> None:
        """Writes the console's log, and this boot's journal if it can be had."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.places.console, folder / f"{name}.console.log")
        if self._door.is_open:
            show = "journalctl --no-pager --boot --namespace=+ds01 --output=short-precise"
            (folder / f"{name}.log").write_bytes(self.root(show, check=False).raw_out)

    def end(self) -> None:
        """Takes the VM and its files away."""
        self._kill()
        self._door.remove()
        shutil.rmtree(self.places.folder, ignore_errors=True)

    def _power_on(self) -> None:
        self._kept.clear()
        mounts.copy_disk(self.places.disk, self.places.before)
        with talk.step(f"booting VM '{self.name}' ({self.accel.name})"):
            self._qemu = qemu.boot(self.places, self.accel, self._door.port)
            deadline = time.monotonic() + _UP_WITHIN_S[self.accel]
            self._wait(self._door.port.exists, deadline)
            self._door.knock()
            self._wait(lambda: self._door.is_open, deadline)
            ready.wait_on(self._call, self.name)

    def _wait(self, holds: Callable[[], bool], deadline: float) -> None:
        assert self._qemu is not None
        while not holds():
            if self._qemu.poll() is not None or time.monotonic() > deadline:
                raise HostError(f"VM '{self.name}' did not boot; the end of its console:\n{self._tail()}")
            time.sleep(0.05)

    def _call(self, argv: Sequence[str]) -> str:
        done = subprocess.run(self._door.argv(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            text = f"'{' '.join(argv)}' failed with status {done.returncode} on VM '{self.name}': {done.stderr}"
            raise HostError(text if self._door.is_open else f"{text}\n{self._tail()}")
        return done.stdout

    def _tail(self) -> str:
        return "\n".join(self.places.console.read_text(errors="replace").splitlines()[-_TAIL:])

    def _kill(self) -> None:
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None
        self._door.shut()


class VmSession(subprocess.Popen[bytes]):
    """A command in a login session. `end` signals it inside; killing the Popen alone would leave it running."""

    def __init__(self, door: Door, user: str, argv: tuple[str, ...]) -> None:
        self.argv = argv
        self._door, self._unit = door, host.new_unit()
        super().__init__(
            door.argv(session.login_argv(user, argv, tty=False, unit=self._unit)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def end(self, signal_name: str = "TERM") -> None:
        """Sends a signal to the command and its process group."""
        subprocess.run(self._door.argv(session.kill_argv(self._unit, signal_name)), check=False, capture_output=True)

"""One process per host: mounts, boots, reboots, pulls the plug and cleans up. Everything it makes ends with it.

Clients talk to it on the control socket, one JSON line each way. It holds the host's lock as long as it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from lib import cgroup, kernel, model, mounts, nspawn, world
from lib.model import Answer, Phase, Plan, Request, State
from lib.places import SYSTEMD, HostError, HostPlaces, host_places

_BOOT_WITHIN_S = 60.0


def supervise(name: str) -> None:
    """Runs the host that `plan.json` describes until it is taken down or powers off."""
    places = host_places(name)
    with places.lock.open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kernel.adopt_orphans()
        kernel.enter_private_mounts()
        group = cgroup.prepare(places.cgroup)
        plan = model.read_plan(places.plan)
        try:
            _Supervisor(places, plan, group).run()
            if plan.keep:
                mounts.unmount_all(places)
                places.disk_image.rename(plan.keep)
        finally:
            _clean(places, group)


def sweep(name: str) -> None:
    """Takes away what a supervisor left that was killed."""
    places = host_places(name)
    if SYSTEMD.is_dir():
        for words in (["kill", "--signal=KILL"], ["stop"]):
            subprocess.run(["systemctl", *words, places.scope], check=False, capture_output=True)
    kernel.enter_private_mounts()
    _clean(places, cgroup.existing(places.cgroup))


def _clean(places: HostPlaces, group: Path) -> None:
    cgroup.remove(group)
    nspawn.forget_last_boot(places)
    with contextlib.suppress(HostError):
        mounts.unmount_all(places)
    shutil.rmtree(places.folder, ignore_errors=True)


class _Supervisor:
    def __init__(self, places: HostPlaces, plan: Plan, group: Path) -> None:
        self._places, self._plan, self._group = places, plan, group
        self._selector = selectors.DefaultSelector()
        self._notify = _bind(places.folder / "notify", socket.SOCK_DGRAM)
        self._control = _bind(places.control, socket.SOCK_STREAM)
        self._control.listen()
        self._selector.register(self._notify, selectors.EVENT_READ, self._notified)
        self._selector.register(self._control, selectors.EVENT_READ, self._asked)
        self._waiting: list[tuple[int, socket.socket]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._leader = self._boot = 0
        self._phase = Phase.BOOTING
        self._boot_before = 0.0

    def run(self) -> None:
        """Until the host is gone. SIGTERM takes it down."""
        signal.signal(signal.SIGTERM, _exit_on_signal)
        try:
            mounts.copy_disk(Path(self._plan.disk), self._places.disk_image)
            mounts.mount_all(self._places, Path(self._plan.tree))
            world.prepare(self._places.root, self._plan)
            self._start()
            while self._process is not None:
                timeout = max(0.0, self._boot_before - time.monotonic()) if self._phase is Phase.BOOTING else None
                events = self._selector.select(timeout)
                if not events and self._phase is Phase.BOOTING:
                    raise HostError(f"'{self._places.name}' did not boot within {_BOOT_WITHIN_S:.0f} s")
                for key, _ in events:
                    key.data()
        except HostError as exc:
            self._fail(str(exc))
            raise SystemExit(1) from exc
        finally:
            self._selector.close()

    def _start(self) -> None:
        self._boot += 1
        self._phase, self._leader = Phase.BOOTING, 0
        self._boot_before = time.monotonic() + _BOOT_WITHIN_S
        self._process = nspawn.boot(self._places, self._group, self._places.folder / "notify")
        self._pidfd = os.pidfd_open(self._process.pid)
        self._selector.register(self._pidfd, selectors.EVENT_READ, self._ended)
        self._tell_state()

    def _notified(self) -> None:
        for line in self._notify.recv(65536).decode(errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key == "X_NSPAWN_LEADER_PID":
                self._leader = int(value)
            elif line == "READY=1" and self._leader:
                self._phase = Phase.UP
        self._tell_state()

    def _tell_state(self) -> None:
        model.write_whole(self._places.state, model.dump(self._state()))
        if self._phase is Phase.UP:
            ready = [client for boot, client in self._waiting if boot <= self._boot]
            self._waiting = [(boot, client) for boot, client in self._waiting if boot > self._boot]
            for client in ready:
                _answer(client, Answer(self._state()))

    def _state(self) -> State:
        return State(
            name=self._places.name,
            supervisor=os.getpid(),
            leader=self._leader,
            boot=self._boot,
            phase=self._phase,
            gpus=self._plan.gpus,
            tree=self._plan.tree,
        )

    def _asked(self) -> None:
        client, _ = self._control.accept()
        client.settimeout(5)
        with contextlib.suppress(OSError, ValueError, KeyError):
            asked = json.loads(client.makefile().readline())
            match Request(asked["do"]):
                case Request.WAIT:
                    self._waiting.append((int(asked["boot"]), client))
                    self._tell_state()
                case Request.POWER:
                    self._waiting.append((self._boot + 1, client))
                    self._pull_the_plug()

    def _pull_the_plug(self) -> None:
        cgroup.freeze(self._group)
        kernel.cut_power_of_ext4(self._places.disk)
        self._forget_process()
        cgroup.kill(self._group)
        mounts.unmount_all(self._places)
        self._group = cgroup.prepare(self._places.cgroup)
        mounts.mount_all(self._places, Path(self._plan.tree))
        self._start()

    def _ended(self) -> None:
        assert self._process is not None
        status = self._process.wait()
        self._forget_process()
        if status == nspawn.REBOOT:
            self._group = cgroup.prepare(self._places.cgroup)
            self._start()
        elif self._phase is Phase.BOOTING or self._waiting:
            raise HostError(f"'{self._places.name}' ended with status {status}")

    def _forget_process(self) -> None:
        self._selector.unregister(self._pidfd)
        os.close(self._pidfd)
        self._process = None

    def _fail(self, text: str) -> None:
        tail = "\n  ".join(self._places.console.read_text(errors="replace").splitlines()[-20:])
        for _, client in self._waiting:
            _answer(client, Answer(None, f"{text}\n  {tail}"))


def _exit_on_signal(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _bind(path: Path, kind: socket.SocketKind) -> socket.socket:
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, kind)
    bound.bind(str(path))
    return bound


def _answer(client: socket.socket, answer: Answer) -> None:
    with contextlib.suppress(OSError), client:
        client.sendall(model.dump(answer).encode() + b"\n")

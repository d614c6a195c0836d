"""The way into a VM: one SSH connection over a virtio port, opened once a boot; every command is a channel of it.

A handshake takes a second of emulated time, a channel a few milliseconds. There is no network and no port in it.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_PLUG = Path(__file__).with_name("plug.py")
_OPTIONS = ("-F", "none", "-oLogLevel=ERROR", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null")


class Door:
    """`port` is the socket on which QEMU offers the port's outer end."""

    def __init__(self, key: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vm-"))  # a socket's path must be short, the cache's need not be
        self.port = self._folder / "port"
        self._channels = self._folder / "channels"
        self._key = key
        self._master: subprocess.Popen[bytes] | None = None

    @property
    def is_open(self) -> bool:
        """Whether commands get in."""
        return self._channels.exists() and self._master is not None and self._master.poll() is None

    def knock(self) -> None:
        """Ask to be let in: sshd answers when the guest has come so far."""
        self.shut()
        plug = shlex.join([sys.executable, "-P", str(_PLUG), str(self.port)])
        proxy = ["-o", "ProxyUseFdpass=yes", "-o", f"ProxyCommand={plug}"]
        # Once in some hundred commands the guest's driver of the port misses that data came, until more comes.
        alive = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1000"]
        master = ["-M", "-S", str(self._channels), "-N", "-i", str(self._key)]
        self._master = subprocess.Popen(
            ["ssh", *_OPTIONS, *proxy, *alive, *master, "root@vm"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def argv(self, words: Sequence[str], *, tty: bool = False) -> list[str]:
        """Runs a command in the guest as root, in no session and no unit but the door's."""
        through = ["-o", "ProxyCommand=false", "-S", str(self._channels), *(["-t"] if tty else [])]
        return ["ssh", *_OPTIONS, *through, "root@vm", shlex.join(words)]

    def shut(self) -> None:
        """Ends the connection."""
        if self._master is not None:
            self._master.kill()
            self._master.wait()
            self._master = None
        self._channels.unlink(missing_ok=True)

    def remove(self) -> None:
        """Shuts it for good."""
        self.shut()
        with contextlib.suppress(OSError):
            shutil.rmtree(self._folder)

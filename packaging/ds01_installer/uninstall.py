"""The way back: everything that the manifest names is taken away or put back as it was."""

from __future__ import annotations

import shutil

from ds01_installer import machine, plan
from ds01_installer.files import Tree, write
from ds01_installer.survey import clear_containers
from ds01_installer.talk import Talk

_RUNTIME = "/run/systemd/system.control"
_RUNTIME_UNITS = ("user-*.slice", "ds01.slice", "docker.slice", "cron.service", "atd.service")
_RUNTIME_NAMES = ("DevicePolicy", "CPUQuota", "CPUWeight", "MemoryHigh", "MemoryMax", "TasksMax")
"""What was set at run time: the installer's device gate and the limits of ds01-limits-sync."""


def uninstall(tree: Tree, talk: Talk, *, purge: bool, may_stop_containers: bool) -> None:
    """Removes DS01; its state and the administrator's folder stay unless `purge`."""
    if not tree.installed:
        talk.note("DS01 is not installed: nothing to do")
        return
    talk.step("containers")
    clear_containers(talk, "the engine loses its user namespace", may_stop=may_stop_containers)

    talk.step("daemons and engine stop")
    machine.try_run("systemctl", "disable", "--quiet", *plan.ENABLED)
    for unit in ("ds01.target", *plan.SOCKETS, *plan.DAEMONS, "docker.service", "docker.socket", "containerd.service"):
        machine.try_run("systemctl", "stop", unit)
    machine.try_run("systemctl", "stop", "ds01-boot.service", "systemd-journald@ds01.service")

    talk.step(f"{len(tree.manifest.made)} files, {len(tree.manifest.replaced)} of them put back as they were")
    for path in tree.manifest.made:
        tree.drop(path)
    shutil.rmtree(tree.at("/usr/lib/ds01"), ignore_errors=True)
    for path, line in tree.manifest.lines:
        write(tree.at(path), plan.without_line(tree.text(path) or "", line).encode(), 0o644)
    tree.drop_folders()

    talk.step("users and catalogue")
    for user in tree.manifest.users:
        machine.try_run("userdel", user)
    machine.try_run("journalctl", "--update-catalog")
    machine.try_run("udevadm", "control", "--reload")

    talk.step("the engine behind its own socket")
    _drop_what_was_set_at_run_time(tree)
    machine.run("systemctl", "daemon-reload")
    machine.try_run("systemctl", "stop", "systemd-journald@ds01.socket", "docker-unmanaged.slice", "docker.slice")
    machine.try_run("systemctl", "stop", "ds01.slice")
    machine.try_run("systemctl", "try-restart", "cron.service", "atd.service")
    machine.try_run("systemctl", "reload", "dbus.service")
    talk.note("login sessions that are open keep the device gate until they end")
    machine.run("systemctl", "restart", "systemd-journald.service")
    machine.run("systemctl", "start", "docker.socket", "containerd.service", "docker.service")
    _remove_state(tree, talk, purge=purge)


def _drop_what_was_set_at_run_time(tree: Tree) -> None:
    for unit in _RUNTIME_UNITS:
        for name in _RUNTIME_NAMES:
            for path in tree.at(_RUNTIME).glob(f"{unit}.d/50-{name}.conf"):
                path.unlink()


def _remove_state(tree: Tree, talk: Talk, *, purge: bool) -> None:
    groups = tree.manifest.groups
    tree.forget()
    shutil.rmtree(tree.at("/run/ds01"), ignore_errors=True)
    shutil.rmtree(tree.at("/run/ds01-engine"), ignore_errors=True)
    tree.at("/run/cdi/ds01.json").unlink(missing_ok=True)
    if not purge:
        talk.note("kept: /var/lib/ds01 (ledger), /etc/ds01 (policy), the group ds01-admin; --purge removes them")
        return
    for group in groups:
        machine.try_run("groupdel", group)
    for path in ("/var/lib/ds01", "/etc/ds01"):
        shutil.rmtree(tree.at(path), ignore_errors=True)

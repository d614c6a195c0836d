"""The steps of an installation, in order. Each can be repeated; nothing that is right already is changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ds01_installer import machine, plan, venv
from ds01_installer.files import Tree, write
from ds01_installer.survey import clear_containers
from ds01_installer.talk import Refused, Talk

_SUBIDS = ("/etc/subuid", "/etc/subgid")
_ENGINE_UNITS = ("docker.service", "docker.socket", "containerd.service")


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for: the checkout to install from, the folder of wheels, whether running containers may stop."""

    checkout: Path
    wheels: Path | None
    may_stop_containers: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What an installation changed: installed paths, and whether the services' code did."""

    paths: frozenset[str]
    code: bool

    def touch(self, *parts: str) -> bool:
        """Whether a changed path contains one of these."""
        return any(part in path for path in self.paths for part in parts)

    @property
    def engine(self) -> bool:
        """Whether dockerd has to start anew."""
        return self.touch("/docker.service.d/", "/docker.socket.d/", "/containerd.service.d/", plan.DAEMON_JSON)


def install(tree: Tree, wish: Wish, talk: Talk) -> None:
    """Installs or upgrades DS01 on this machine."""
    talk.step("versions and programs")
    check_machine()
    config = plan.engine_config(tree.text(plan.DAEMON_JSON))
    if config.hides_old_containers:
        clear_containers(talk, "the engine gets a user namespace", may_stop=wish.may_stop_containers)
    placed = plan.layout(str(path.relative_to(wish.checkout)) for path in _sources(wish.checkout))
    interrupted = tree.installed and not tree.manifest.complete
    _record(tree, placed)

    talk.step(f"virtual environment {plan.VENV}")
    code_changed = venv.install(wish.checkout, tree.at(plan.VENV), wish.wheels)
    for link, to in plan.LINKS.items():
        tree.link(link, to)

    talk.step(f"{len(placed)} units and configuration files")
    changes = Changes(frozenset(_put_files(tree, wish.checkout, placed)), code_changed)

    talk.step("users, folders, catalogue, device links")
    _prepare_system(tree, changes)

    talk.step(plan.DAEMON_JSON)
    for key in config.dropped:
        talk.note(f"'{key}' of the former file is not carried on")
    if _write_engine_config(tree, config):
        changes = replace(changes, paths=changes.paths | {plan.DAEMON_JSON})
    if interrupted:
        # Nobody knows what the installation before has told systemd and the engine.
        changes = Changes(frozenset(tree.manifest.made), code=True)

    _start(changes, talk)
    tree.manifest.complete = True
    tree.save()


def check_machine() -> None:
    """Refuses a machine that is too old or lacks something, with every reason at once."""
    lacks = (*plan.shortfalls(machine.versions()), *machine.other_shortfalls())
    if lacks:
        raise Refused("this machine can't run DS01:\n  " + "\n  ".join(lacks), status=78)


def _sources(checkout: Path) -> list[Path]:
    folders = ("units", "config", "packaging", "docs")
    return [path for name in folders for path in (checkout / name).rglob("*") if path.is_file()]


def _record(tree: Tree, placed: tuple[plan.Placed, ...]) -> None:
    manifest = tree.manifest
    manifest.complete = False
    if plan.REMAP_USER not in manifest.users and not machine.has_user(plan.REMAP_USER):
        manifest.users.append(plan.REMAP_USER)
    if "ds01-admin" not in manifest.groups and not machine.has_group("ds01-admin"):
        manifest.groups.append("ds01-admin")
    tree.claim([*(file.target for file in placed), *plan.LINKS, plan.DAEMON_JSON])


def _put_files(tree: Tree, checkout: Path, placed: Iterable[plan.Placed]) -> list[str]:
    """Writes the files and removes those of an older version; the paths that changed."""
    placed = tuple(placed)
    changed = [file.target for file in placed if tree.put(file.target, (checkout / file.source).read_bytes())]
    for target in _gone(tree, placed):
        tree.drop(target)
        del tree.manifest.made[target]
        changed.append(target)
    tree.save()
    return changed


def _gone(tree: Tree, placed: tuple[plan.Placed, ...]) -> list[str]:
    now = {file.target for file in placed} | set(plan.LINKS) | {plan.DAEMON_JSON}
    return [path for path in tree.manifest.made if path not in now]


def _prepare_system(tree: Tree, changes: Changes) -> None:
    machine.run("systemd-sysusers", "ds01.conf")
    machine.run("systemd-tmpfiles", "--create", "ds01.conf")
    _give_subids(tree)
    if changes.touch("/catalog/"):
        machine.run("journalctl", "--update-catalog")
    if changes.touch("/udev/"):
        machine.try_run("udevadm", "control", "--reload")
    if machine.exists("nvidia-ctk"):
        machine.try_run("nvidia-ctk", "system", "create-dev-char-symlinks", "--create-all")


def _give_subids(tree: Tree) -> None:
    texts = {path: tree.text(path) or "" for path in _SUBIDS}
    lacking = [path for path, text in texts.items() if not plan.has_subids(text, plan.REMAP_USER)]
    if not lacking:
        return
    line = plan.subid_line(plan.REMAP_USER, plan.choose_range(texts.values(), machine.used_ids()))
    tree.manifest.lines.extend((path, line) for path in lacking)
    tree.save()
    for path in lacking:
        write(tree.at(path), plan.with_line(texts[path], line).encode(), 0o644)


def _write_engine_config(tree: Tree, config: plan.EngineConfig) -> bool:
    trial = tree.state / "daemon.json.new"
    write(trial, config.text.encode(), 0o600)
    machine.run("dockerd", "--validate", "--config-file", str(trial))
    trial.unlink()
    changed = tree.put(plan.DAEMON_JSON, config.text.encode())
    tree.save()
    return changed


def _start(changes: Changes, talk: Talk) -> None:
    talk.step("the engine behind its new socket" if changes.engine else "the engine (unchanged)")
    if changes.engine:
        # Before the reload: a socket whose unit changed under it is dead until it is started again.
        machine.run("systemctl", "stop", *_ENGINE_UNITS)
    if changes.touch(".socket"):
        machine.try_run("systemctl", "stop", *plan.SOCKETS, *plan.DAEMONS)
    if changes.paths:
        machine.run("systemctl", "daemon-reload")
        _apply_to_what_runs(changes)
    machine.run("systemctl", "enable", "--quiet", *plan.ENABLED)
    machine.run("systemctl", "start", "docker.socket", *plan.SOCKETS)
    machine.run("systemctl", "start", "containerd.service", "docker.service")

    talk.step("the daemons")
    if changes.code or changes.paths:
        machine.run("systemctl", "restart", *plan.DAEMONS)
    machine.run("systemctl", "start", "ds01.target", *plan.DAEMONS)
    down = [unit for unit in (*plan.ENABLED, *plan.DAEMONS, "docker.service") if not machine.is_active(unit)]
    if down:
        raise Refused(f"not running: {', '.join(down)}; see `systemctl status` and `journalctl --namespace=ds01`", 69)


def _apply_to_what_runs(changes: Changes) -> None:
    """A reload alone leaves the device gate off whatever already runs."""
    if changes.touch("/journald.conf.d/"):
        machine.run("systemctl", "restart", "systemd-journald.service")
    if changes.touch("/user-.slice.d/"):
        for unit in machine.user_slices():
            machine.run("systemctl", "set-property", "--runtime", unit, "DevicePolicy=closed")
    if changes.touch("/dbus-1/"):
        machine.try_run("systemctl", "reload", "dbus.service")
    if changes.touch("/cron.service.d/", "/atd.service.d/"):
        machine.try_run("systemctl", "try-restart", "cron.service", "atd.service")

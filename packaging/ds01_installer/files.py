"""Every change of a file: written by rename with an explicit mode, copied before it is replaced, put back on request.

`root` is "/" on a real machine. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ds01_installer import manifest as manifests
from ds01_installer.manifest import Manifest

STATE = "/var/lib/ds01/install"


class Tree:
    """The file system below `root`, and the manifest of what was changed in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = self.at(STATE)
        found = manifests.load(self.state / "manifest.json")
        self.installed = found is not None
        self.manifest = found if found is not None else Manifest()

    def at(self, path: str) -> Path:
        """The real path of an installed path."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """A file's text, None when it does not exist."""
        try:
            return self.at(path).read_text()
        except FileNotFoundError:
            return None

    def edited(self) -> tuple[str, ...]:
        """The files that are no longer as they were installed."""
        made = self.manifest.made.items()
        return tuple(path for path, digest in made if digest and _digest_at(self.at(path)) != digest)

    def save(self) -> None:
        """Writes the manifest durably."""
        for folder in (self.state.parent, self.state):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        write(self.state / "manifest.json", manifests.dump(self.manifest).encode(), 0o600)

    def claim(self, paths: Iterable[str]) -> None:
        """Takes over the paths: copies what lies there and is not ours, and records all before the first change."""
        for path in paths:
            if path not in self.manifest.made:
                self._keep_former(path)
                self.manifest.made[path] = ""
            self._note_missing_folders(path)
        self.save()

    def put(self, path: str, content: bytes) -> bool:
        """Writes a claimed file, 0644; whether it differed from what was there."""
        self.manifest.made[path] = _digest(content)
        target = self.at(path)
        self._make_folders(target.parent)
        if target.is_file() and not target.is_symlink() and target.read_bytes() == content:
            target.chmod(0o644)
            return False
        write(target, content, 0o644)
        return True

    def link(self, path: str, to: str) -> None:
        """Puts a symbolic link at a claimed path, by rename."""
        target = self.at(path)
        self._make_folders(target.parent)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(to)
        scratch.rename(target)

    def drop(self, path: str) -> None:
        """Removes a claimed path and puts back what was there; what was edited since is kept beside the manifest."""
        target, digest = self.at(path), self.manifest.made[path]
        if digest and target.is_file() and _digest_at(target) != digest:
            self._keep_edited(path, target)
        target.unlink(missing_ok=True)
        former = self.manifest.replaced.get(path)
        if former is not None:
            self._put_back(target, *former)

    def drop_folders(self) -> None:
        """Removes the folders that we made and that are empty now."""
        for folder in sorted(self.manifest.folders, key=len, reverse=True):
            if self.at(folder).is_dir() and not any(self.at(folder).iterdir()):
                self.at(folder).rmdir()

    def forget(self) -> None:
        """Removes the manifest and the copies; edited files stay."""
        shutil.rmtree(self.state / "former", ignore_errors=True)
        (self.state / "manifest.json").unlink(missing_ok=True)
        if self.state.is_dir() and not any(self.state.iterdir()):
            self.state.rmdir()

    def _keep_former(self, path: str) -> None:
        target = self.at(path)
        if not target.is_symlink() and not target.exists():
            return
        self.save()
        former = self.state / "former"
        former.mkdir(mode=0o700, exist_ok=True)
        name = f"{len(self.manifest.replaced):03}-{target.name}"
        (former / name).unlink(missing_ok=True)
        shutil.copy2(target, former / name, follow_symlinks=False)
        found = target.lstat()
        self.manifest.replaced[path] = (name, found.st_mode & 0o7777, found.st_uid, found.st_gid)

    def _put_back(self, target: Path, name: str, mode: int, uid: int, gid: int) -> None:
        former = self.state / "former" / name
        shutil.copy2(former, target, follow_symlinks=False)
        if not target.is_symlink():
            target.chmod(mode)
        os.chown(target, uid, gid, follow_symlinks=False)

    def _keep_edited(self, path: str, target: Path) -> None:
        edited = self.state / "edited"
        edited.mkdir(mode=0o700, exist_ok=True)
        shutil.copy2(target, edited / path.strip("/").replace("/", "-"))

    def _note_missing_folders(self, path: str) -> None:
        for folder in Path(path).parents:
            if not self.at(str(folder)).exists() and str(folder) not in self.manifest.folders:
                self.manifest.folders.append(str(folder))

    def _make_folders(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folders(folder.parent)
            folder.mkdir()
            folder.chmod(0o755)


def write(target: Path, content: bytes, mode: int) -> None:
    """Writes a file durably and at once: the old content or the new one is seen, never a part."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(target)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_at(path: Path) -> str | None:
    try:
        return _digest(path.read_bytes())
    except FileNotFoundError:
        return None

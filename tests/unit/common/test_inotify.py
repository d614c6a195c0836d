"""Real folders: what is told of them, and when."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from ds01.common.adapters.inotify import FolderWatch

Told = list[tuple[str, str]]


def watching(folder: Path, story: Callable[[Told], Awaitable[None]]) -> None:
    """Watch the folder while the story goes on."""
    told: Told = []

    async def main() -> None:
        watch = FolderWatch(lambda where, name: told.append((where, name)))
        watch.start()
        watch.watch([str(folder), str(folder / "absent")])
        try:
            await asyncio.wait_for(story(told), 20)
        finally:
            watch.close()

    asyncio.run(main())


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def test_a_file_that_is_being_made_is_told_when_it_is_whole(tmp_path: Path) -> None:
    async def story(told: Told) -> None:
        with open(tmp_path / "policy", "w", encoding="ascii") as file:
            file.write("half")
            file.flush()
            await asyncio.sleep(0.1)
            assert told == []
        await until(lambda: told == [(str(tmp_path), "policy")])

    watching(tmp_path, story)


def test_links_and_folders_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "old").touch()

    async def story(told: Told) -> None:
        (tmp_path / "soft").symlink_to("old")
        os.link(tmp_path / "old", tmp_path / "hard")
        (tmp_path / "folder").mkdir()
        await until(lambda: {"soft", "hard", "folder"} <= {name for _, name in told})

    watching(tmp_path, story)


def test_a_folder_that_goes_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()

    async def story(told: Told) -> None:
        (tmp_path / "x").rmdir()
        await until(lambda: (str(tmp_path), "x") in told)

    watching(tmp_path, story)


def test_only_what_is_watched_now_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    told: Told = []

    async def main() -> None:
        watch = FolderWatch(lambda where, name: told.append((where, name)))
        watch.start()
        watch.watch([str(tmp_path / "a")])
        watch.watch([str(tmp_path / "b")])
        (tmp_path / "a/x").touch()
        (tmp_path / "b/x").touch()
        await asyncio.wait_for(until(lambda: told), 20)
        watch.close()

    asyncio.run(main())
    assert {where for where, _ in told} == {str(tmp_path / "b")}

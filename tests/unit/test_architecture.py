"""The rules of the house, as tests: who may import whom, how large things may be, which library lives where."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from ds01.common.events import EVENTS, catalog

ROOT = Path(__file__).parents[2]
SERVICES = sorted(path.name for path in (ROOT / "services").iterdir() if (path / "__main__.py").exists())
PRODUCT = sorted([*(ROOT / "services").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])

CONTAINED = {
    "sdnotify": "common/adapters/notify.py",
    "dbus_next": "common/adapters/systemd.py",
    "pynvml": "common/adapters/nvml.py",
    "cysystemd": "common/adapters/journal.py",
    "inotify_simple": "common/adapters/inotify.py",
    "docker": "common/adapters/docker.py",
}
"""Libraries that live in one file each."""

PURE = [
    "common/cdi.py",
    "common/errors.py",
    "common/events.py",
    "common/gpus.py",
    "common/limits.py",
    "common/model.py",
    "common/policy/build.py",
    "common/policy/compile.py",
    "common/policy/diff.py",
    "common/policy/keys.py",
    "common/policy/kinds.py",
    "common/policy/migrate.py",
    "common/policy/read.py",
    "common/policy/tree.py",
    "common/policy/unknown.py",
    "common/policy/values.py",
    "common/quantity.py",
    "common/rates.py",
    "common/sizes.py",
    "common/slices.py",
    "common/unitnames.py",
    "common/xids.py",
    "gpu_allocator/choose.py",
    "gpu_allocator/decide.py",
    "gpu_allocator/explain.py",
    "gpu_allocator/foreign.py",
    "gpu_allocator/lifecycle.py",
    "gpu_allocator/queue.py",
    "gpu_allocator/reports.py",
    "gpu_allocator/request.py",
    "gpu_allocator/shares.py",
    "gpu_allocator/snapshot.py",
    "gpu_allocator/world.py",
    "limits_sync/shrink.py",
    "limits_sync/sizing.py",
    "limits_sync/wanted.py",
    "nvml/health.py",
]
EFFECTS = {"asyncio", "os", "socket", "time", "subprocess", "sqlite3", "threading", "random", "secrets", "select"}

LONG_FILES: dict[str, str] = {}
"""Files over 400 lines and the reason."""


def imports(path: Path) -> set[str]:
    """Every module that `path` imports, by full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            is_package = module.startswith("ds01.") and (ROOT / "services" / Path(*module.split(".")[1:])).is_dir()
            found |= {f"{module}.{alias.name}" for alias in node.names} if is_package else {module}
    return found


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT / "services")) if path.is_relative_to(ROOT / "services") else f"cli/{path.name}"


@pytest.mark.parametrize("path", PRODUCT, ids=relative)
def test_services_meet_only_outside_of_python(path: Path) -> None:
    own = path.relative_to(ROOT).parts[1] if path.is_relative_to(ROOT / "services") else "cli"
    for module in imports(path):
        parts = module.split(".")
        is_pure = module.removeprefix("ds01.").replace(".", "/") + ".py" in PURE
        if parts[0] == "ds01" and len(parts) > 1 and not (own == "cli" and is_pure):
            assert parts[1] in {own, "common"}, f"{relative(path)} imports {module}"
    if own == "common":
        assert not {module for module in imports(path) if module.startswith("ds01.") and ".common" not in module}


@pytest.mark.parametrize(("library", "home"), CONTAINED.items())
def test_each_library_has_one_home(library: str, home: str) -> None:
    users = {relative(path) for path in PRODUCT if any(name.split(".")[0] == library for name in imports(path))}
    assert users <= {home}


def test_only_main_builds_adapters() -> None:
    users = {
        relative(path)
        for path in PRODUCT
        if "adapters/" not in relative(path) and any(".adapters" in name for name in imports(path))
    }
    # The command line has no __main__: this file is its wiring, imported by the commands that need it.
    assert {name for name in users if not name.endswith("__main__.py")} == {"cli/policy_sources.py"}


@pytest.mark.parametrize("name", PURE)
def test_pure_files_have_no_effects(name: str) -> None:
    used = {module.split(".")[0] for module in imports(ROOT / "services" / name)}
    assert not used & EFFECTS
    own = {module for module in imports(ROOT / "services" / name) if module.startswith("ds01.")}
    assert {module.removeprefix("ds01.").replace(".", "/") + ".py" for module in own} <= set(PURE)


@pytest.mark.parametrize("path", PRODUCT, ids=relative)
def test_nothing_is_too_long(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 400 or relative(path) in LONG_FILES
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{relative(path)}:{node.name}"


def test_every_module_says_what_it_owns() -> None:
    silent = [relative(p) for p in PRODUCT if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []


def test_no_word_for_later_and_no_swallowed_exception() -> None:
    for path in PRODUCT:
        text = path.read_text()
        assert "TODO" not in text
        assert "FIXME" not in text
        assert "except:" not in text


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {
        "ds01" + "".join(f".{part}" for part in path.parent.relative_to(ROOT / "services").parts)
        for path in (ROOT / "services").rglob("__init__.py")
    }
    assert listed == found | {"ds01.cli"}


def test_the_deprecated_shell_of_pynvml_is_not_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not [item for item in project["project"]["dependencies"] if item.startswith("pynvml")]


def test_message_ids_are_unique_and_the_catalogue_is_the_table() -> None:
    ids = [kind.message_id for kind in EVENTS.values()]
    assert len(set(ids)) == len(ids)
    assert all(len(item) == 32 for item in ids)
    assert (ROOT / "packaging" / "ds01.catalog").read_text() == catalog()


def test_every_event_is_documented() -> None:
    page = (ROOT / "docs" / "EVENTS.md").read_text().split("## Fields")[0]
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert listed == set(EVENTS)

"""What a host is made of, step by step: Debian, wheels, a site with users and a simulated driver, the installed suite.

base       Debian as a tar                                   packages.txt
debian     a small Debian for containers, as a tar           this file
wheels     what the suite needs from PyPI                    requirements.txt
site       a server before DS01: users, driver, engine       site/, tests/fakenvml
installed  the site after `make install`, and images         the product's files
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lib import host, installing, stages, talk, wheels, world
from lib.places import CHECKOUT, RECIPES
from lib.stages import Stage, digest, digest_of_files

SUITE = "trixie"
DISK_SIZE = "32G"

_LIB = CHECKOUT / "tests/host/lib"
_FAKENVML = CHECKOUT / "tests/fakenvml"
_CONTAINER_PACKAGES = "python3"
_NO_DOCS = "path-exclude=/usr/share/{doc,man,info,locale,lintian}/*"


@dataclass(frozen=True, slots=True)
class Installed:
    """What `testhost up` boots: a tree that is shared, and a disk that each host gets a copy of."""

    tree: Path
    disk: Path


def ensure() -> Installed:
    """Builds what is missing, in a minute or two at first, in no time after."""
    with stages.exclusive():
        with ThreadPoolExecutor() as pool:
            base, debian, wheel_folder = pool.map(stages.ensure, (_base(), _debian(), _wheels()))
        site_stage = _site(base, wheel_folder)
        site = stages.ensure(site_stage)
        installed_stage = _installed(site, site_stage.key, debian)
        installed = stages.ensure(installed_stage)
        in_use = host.trees_in_use() | {str(site / "root")}
        for stage in (_base(), _debian(), _wheels(), site_stage, installed_stage):
            stages.prune(stage, in_use)
        return Installed(site / "root", installed / "disk.img")


def _base() -> Stage:
    packages = _words(RECIPES / "packages.txt")
    make = partial(_debootstrap, variant="minbase", packages=packages, options=[])
    return Stage(
        "base", digest(SUITE, *packages), f"Debian {SUITE} with systemd and Docker (downloads, 1 to 2 minutes)", make
    )


def _debian() -> Stage:
    make = partial(_debootstrap, variant="apt", packages=[_CONTAINER_PACKAGES], options=[f"--dpkgopt={_NO_DOCS}"])
    return Stage(
        "debian", digest(SUITE, _CONTAINER_PACKAGES, _NO_DOCS), "Debian for containers (downloads, half a minute)", make
    )


def _wheels() -> Stage:
    return Stage("wheels", digest_of_files(RECIPES, [wheels.LOCK]), "wheels from PyPI", wheels.make)


def _site(base: Path, wheel_folder: Path) -> Stage:
    recipe = digest_of_files(CHECKOUT, [RECIPES / "site", _FAKENVML, _LIB / "image.py", _LIB / "world.py"])
    make = partial(_make_site, base=base, wheel_folder=wheel_folder)
    return Stage("site", digest(base.name, wheel_folder.name, recipe), "a site: users, engine, simulated GPUs", make)


def _installed(site: Path, site_key: str, debian: Path) -> Stage:
    product = digest_of_files(CHECKOUT, [CHECKOUT / path for path in installing.PRODUCT])
    recipe = digest_of_files(CHECKOUT, [_LIB / "installing.py", RECIPES / "make-images"])
    make = partial(installing.make, site=site, debian=debian / "root.tar")
    return Stage("installed", digest(site_key, debian.name, product, recipe), "DS01 installed on the site", make)


def _debootstrap(folder: Path, *, variant: str, packages: list[str], options: list[str]) -> None:
    include = [f"--include={','.join(packages)}"]
    argv = ["mmdebstrap", f"--variant={variant}", *include, *options, SUITE, str(folder / "root.tar")]
    talk.run_showing(argv, log=folder / "mmdebstrap.log", prefix="I: ", label=f"{variant}: ")


def _words(path: Path) -> list[str]:
    lines = (line.partition("#")[0] for line in path.read_text().splitlines())
    return [word for line in lines for word in line.split()]


def _make_site(folder: Path, *, base: Path, wheel_folder: Path) -> None:
    root = folder / "root"
    root.mkdir()
    talk.run(["tar", "--extract", f"--file={base / 'root.tar'}", f"--directory={root}", "--numeric-owner"])
    (root / "etc/resolv.conf").write_text("# no network, no resolver\n")  # mmdebstrap brings along the builder's
    shutil.copytree(RECIPES / "site", root, symlinks=True, dirs_exist_ok=True)
    shutil.copytree(wheel_folder, root / "opt/wheels")
    talk.run(["make", "--silent", f"--directory={_FAKENVML}", "install", f"DESTDIR={root}"])
    world.add_users(root, world.parse_users(world.DEFAULT_USERS))
    _make_disk(folder, root)


def _make_disk(folder: Path, root: Path) -> None:
    """The disk of a host that never booted: /var and /home moved on to it, and room for what changes elsewhere."""
    content = folder / "disk"
    for name in ("upper", "work"):
        (content / name).mkdir(parents=True)
    for name in ("var", "home"):
        (root / name).rename(content / name)
        (root / name).mkdir()
    disk = folder / "disk.img"
    talk.run(["truncate", f"--size={DISK_SIZE}", disk])
    features = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    talk.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-J", "size=64", "-E", features, "-d", content, disk])
    shutil.rmtree(content)

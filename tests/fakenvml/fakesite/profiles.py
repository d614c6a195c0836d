"""MIG profiles of the A100 40 GB, where instances may lie, and the text that describes a host's GPUs. Pure."""

from dataclasses import dataclass, replace

from .errors import SiteError


@dataclass(frozen=True, slots=True)
class Profile:
    """One row of `nvidia-smi mig -lgip` and `-lgipp`; sizes and starts count memory slices of eight."""

    name: str
    size: int
    starts: tuple[int, ...]


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("1g.5gb", 1, (0, 1, 2, 3, 4, 5, 6)),
        Profile("1g.10gb", 2, (0, 2, 4, 6)),
        Profile("2g.10gb", 2, (0, 2, 4)),
        Profile("3g.20gb", 4, (0, 4)),
        Profile("4g.20gb", 4, (0,)),
        Profile("7g.40gb", 8, (0,)),
    )
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What a GPU is configured to be: whole, or in MIG mode with these profiles."""

    mig: bool
    profiles: tuple[str, ...] = ()
    links: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Placed:
    """A GPU instance that a layout asks for, before it has a UUID."""

    profile: str
    start: int
    gpu_instance: int


def parse_host(spec: str) -> tuple[Layout, ...]:
    """The layouts of all GPUs, as in `3x2g.10gb,full`; `none` is a host without GPUs.

    `full,full,full nvlink=0-1,1-2` also says which pairs NVLink joins.
    """
    layouts, _, links = spec.partition(" nvlink=")
    if layouts.strip() == "none":
        return ()
    found = [parse_layout(word) for word in layouts.split(",")]
    for word in links.split(",") if links.strip() else ():
        one, other = _pair(word.strip(), len(found))
        found[one] = replace(found[one], links=found[one].links | {other})
        found[other] = replace(found[other], links=found[other].links | {one})
    return tuple(found)


def _pair(word: str, count: int) -> tuple[int, int]:
    one, _, other = word.partition("-")
    if not (one.isdecimal() and other.isdecimal()) or one == other or max(int(one), int(other)) >= count:
        raise SiteError(f"'{word}' joins no two of {count} GPUs: write nvlink=0-1,2-3")
    return int(one), int(other)


def parse_layout(word: str) -> Layout:
    """One GPU: `full`, `mig` (mode on, no instance) or `NxPROFILE[+NxPROFILE…]`."""
    match word.strip():
        case "full":
            return Layout(mig=False)
        case "mig":
            return Layout(mig=True)
        case text:
            profiles = tuple(name for part in text.split("+") for name in _repeated(part))
            place(profiles)
            return Layout(mig=True, profiles=profiles)


def _repeated(part: str) -> tuple[str, ...]:
    count, cross, name = part.partition("x")
    if not cross or not count.isdecimal() or int(count) < 1 or name not in PROFILES:
        known = ", ".join(PROFILES)
        raise SiteError(f"'{part}' is not a layout: 'full', 'mig', 'none' or NxPROFILE with one of {known}")
    return (name,) * int(count)


def place(profiles: tuple[str, ...]) -> tuple[Placed, ...]:
    """Where the driver would put these instances, largest first; sorted by instance id, the order of MIG indices."""
    taken: set[int] = set()
    placed = []
    for name in sorted(profiles, key=lambda name: (-PROFILES[name].size, len(PROFILES[name].starts))):
        profile = PROFILES[name]
        start = next((s for s in profile.starts if taken.isdisjoint(range(s, s + profile.size))), None)
        if start is None:
            raise SiteError(f"'{'+'.join(profiles)}' does not fit one GPU: no place is left for '{name}'")
        taken.update(range(start, start + profile.size))
        placed.append(Placed(name, start, gpu_instance_id(profile.size, start)))
    return tuple(sorted(placed, key=lambda instance: instance.gpu_instance))


def gpu_instance_id(size: int, start: int) -> int:
    """The driver numbers instances like nodes of a binary tree over the eight slices."""
    return {8: 0, 4: 1, 2: 3, 1: 7}[size] + start // size

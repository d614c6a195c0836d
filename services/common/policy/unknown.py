"""What to say of a key that has no business where it stands: where it belongs, or which one was meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from ds01.common.policy import keys
from ds01.common.policy.keys import BY_NAME, STRUCTURE, Key

ALLOWED = {layer: keys.allowed(layer) for layer in ("machine", "group", "user")}
SECTIONS = {
    layer: {key.section for key in known.values() if key.section} | {"binds"} for layer, known in ALLOWED.items()
}
"""By layer, the sections that may stand in it."""

NO_MERGES = "'<<' is not read here: write the keys out"

_SPELLINGS = {
    "max_gpu_slots": "max_gpu_equivalents", "max_gpus_per_user": "max_gpu_equivalents",
    "max_gpus": "max_gpu_equivalents", "gpu_limit": "max_gpu_equivalents",
    "max_gpus_per_container": "max_gpu_slots_per_container", "max_mig_per_container": "max_gpu_slots_per_container",
    "max_tasks": "aggregate.tasks_max", "max_memory": "memory", "max_containers": "max_containers_per_user",
    "cpus": "max_cpus", "shm": "shm_size", "idle_timeout_h": "idle_timeout", "max_runtime_h": "max_runtime",
    "gpu_hold_after_stop_h": "gpu_hold_after_stop", "container_hold_after_stop_h": "container_hold_after_stop",
}  # fmt: skip
_MORE_WORDS = {"machine": STRUCTURE, "group": ("members", "unix_groups"), "user": ()}
_PLACES = {key.section: key.place for key in keys.KEYS if key.section}
_LOOK = "remove it, or see resource-limits.reference.yaml"


def unknown(name: str, layer: str) -> str:
    """Of a key in a layer (`machine`, `group` or `user`), outside of every section."""
    if name == "<<":
        return NO_MERGES
    if name in _SPELLINGS:
        return f"is not a key: write {_written(_SPELLINGS[name])}"
    if name in STRUCTURE:
        return "does not stand here: it belongs at the top level"
    misplaced = _misplaced(name, layer)
    if misplaced:
        return misplaced
    here = (*(key for key in ALLOWED[layer] if "." not in key), *SECTIONS[layer], *_MORE_WORDS[layer])
    near = _near(name, here) or _near(name, _last_words())
    return f"is not a key: {_meant(near, here, layer)}"


def unknown_in_section(name: str, section: str, layer: str) -> str:
    """Of a key in a section of a layer."""
    if f"{section}.{name}" in BY_NAME:
        return f"does not stand here: it belongs in '{section}:' at the top level"
    if name in _SPELLINGS:
        return f"is not a key: write {_written(_SPELLINGS[name])}"
    inside = [key.rpartition(".")[2] for key in ALLOWED[layer] if key.startswith(f"{section}.")]
    near = _near(name, inside)
    return f"is not a key of '{section}': " + (f"did you mean '{near}'?" if near else _LOOK)


def _misplaced(name: str, layer: str) -> str:
    """Of a name that is a key's somewhere; '' where it is not."""
    if name in _PLACES or (name in BY_NAME and "." not in name):
        place = _PLACES[name] if name in _PLACES else BY_NAME[name].place
        return f"does not stand here: it belongs in {place}"
    if name in BY_NAME:
        return f"is not a key: write {_written(name)}"
    keys_inside = list(_inside(name, ALLOWED[layer].values())) or list(_inside(name, keys.KEYS))
    if not keys_inside:
        return ""
    sections = " or ".join(f"'{key.section}:'" for key in keys_inside)
    top = "" if keys_inside[0].name in ALLOWED[layer] else f" in {keys_inside[0].place}"
    return f"stands in a section: write it below {sections}{top}"


def _meant(near: str, here: Iterable[str], layer: str) -> str:
    if not near:
        return _LOOK
    if near in here:
        return f"did you mean '{near}'?"
    return f"did you mean '{near}'? That {_misplaced(near, layer)}"


def _inside(name: str, known: Iterable[Key]) -> Iterator[Key]:
    return (key for key in known if key.section and key.name == f"{key.section}.{name}")


def _last_words() -> list[str]:
    return [key.name.rpartition(".")[2] for key in keys.KEYS]


def _written(name: str) -> str:
    section, _, last = name.rpartition(".")
    return f"'{last}' below '{section}:'" if section else f"'{last}'"


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name[:80], list(known), 1, 0.7)
    return near[0] if near else ""

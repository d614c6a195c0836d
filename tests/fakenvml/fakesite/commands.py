"""The command line: parse, change the topology, bring nodes and CDI file into line, tell what is there."""

import argparse
import json
import sys
import uuid
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path

from . import cdi, changes, nodes
from .errors import SiteError
from .profiles import Layout, parse_layout
from .site import Site, configured, load, now_s, offer_library, only_writer, save, seed, take_mig_minors, write_whole
from .topology import NOT_OFFERED, Kind, State, Topology


def boot(site: Site) -> None:
    """Loads the driver: MIG mode is as it was, instances are gone. The CDI file stays as the last run left it."""
    layouts = configured(site)
    topology = changes.booted(layouts, seed(site), now_s()) if layouts else None
    if topology is None:
        site.topology.unlink(missing_ok=True)
    else:
        save(site, topology)
    nodes.make(site.dev, topology)
    offer_library(site, present=topology is not None)


def mig_apply(site: Site) -> None:
    """Makes the configured instances anew on every GPU, then nodes and CDI file."""
    layouts = configured(site)
    if not layouts:
        site.cdi.unlink(missing_ok=True)
        return
    if len(layouts) != len(load(site).gpus):
        raise SiteError("the number of GPUs in /etc/fakegpu/site has changed: reboot, or run 'fakegpu boot'")
    _rebuild(site, dict(enumerate(layouts)))


def mig(site: Site, gpu: int, layout: Layout) -> None:
    """Cuts one GPU anew, until the next reboot."""
    load(site).gpu(gpu)
    _rebuild(site, {gpu: layout})


def reset(site: Site, gpu: int) -> None:
    """As `nvidia-smi --gpu-reset`. The real one also refuses while a program has NVML open on the GPU."""
    topology = load(site)
    _refuse_busy(topology, {gpu}, "it can't be reset")
    save(site, changes.was_reset(topology, gpu, now_s()))
    nodes.make(site.dev, load(site))
    write_cdi(site)


def _refuse_busy(topology: Topology, gpus: Collection[int], so: str) -> None:
    busy = [p for p in topology.processes if p.gpu in gpus and Path(f"/proc/{p.pid}").exists()]
    if busy:
        raise SiteError(f"GPU {busy[0].gpu} is in use by process {busy[0].pid}: {so}")


def _rebuild(site: Site, layouts: dict[int, Layout]) -> None:
    topology = load(site)
    _refuse_busy(topology, layouts, "its instances can't be changed")
    topology = replace(topology, processes=tuple(p for p in topology.processes if p.gpu not in layouts))
    first = take_mig_minors(site, 2 * changes.instances_in(tuple(layouts.values())))
    topology = changes.rebuilt(topology, layouts, first, lambda: str(uuid.uuid4()))
    save(site, topology)
    nodes.make(site.dev, topology)
    write_cdi(site)


def write_cdi(site: Site) -> None:
    text = cdi.render(load(site), site.library_folder())
    if text is None:
        site.cdi.unlink(missing_ok=True)
    else:
        write_whole(site.cdi, text)


def status(site: Site, *, as_json: bool) -> str:
    topology = load(site)
    if as_json:
        return json.dumps(asdict(topology), indent=1)
    lines = []
    for gpu in topology.gpus:
        mode = "MIG" if gpu.mig else "whole"
        lines.append(f"{gpu.index}    {mode}  {gpu.state}  util={gpu.util}% mem={gpu.mem}MiB  {gpu.uuid}")
        for number, i in enumerate(topology.of(gpu.index)):
            caps = f"caps={i.gicap},{i.cicap}"
            lines.append(f"{gpu.index}:{number}  {i.profile}  gi={i.gi} start={i.start} {caps}  {i.uuid}")
    lines += [f"process {p.pid} on GPU {p.gpu}, instance {p.gi}: {p.mem} MiB" for p in topology.processes]
    return "\n".join(lines)


def _change(site: Site, change: Callable[[Topology], Topology]) -> None:
    save(site, change(load(site)))


def _settings(words: list[str]) -> dict[str, int]:
    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value.isdecimal():
            raise SiteError(f"'{word}' sets nothing: write KEY=NUMBER, such as util=85")
        settings[key] = int(value)
    return settings


def _process(site: Site, words: list[str]) -> None:
    match words:
        case ["clear"]:
            _change(site, changes.processes_cleared)
        case [target, pid, mem, *kind] if pid.isdecimal() and (mem.isdecimal() or mem == "unknown") and len(kind) < 2:
            mem_mib = NOT_OFFERED if mem == "unknown" else int(mem)
            _change(site, lambda t: changes.process_added(t, target, int(pid), mem_mib, _kind(kind)))
        case _:
            raise SiteError("write 'process GPU[:INSTANCE] PID MEM_MIB|unknown [KIND]' or 'process clear'")


def _kind(words: list[str]) -> Kind:
    if not words:
        return Kind.COMPUTE
    if words[0] not in set(Kind):
        raise SiteError(f"'{words[0]}' is no kind of process: write {', '.join(Kind)}")
    return Kind(words[0])


def run(arguments: argparse.Namespace) -> None:
    site: Site = Site(arguments.root)
    match arguments.command:
        case "boot":
            boot(site)
        case "mig-apply":
            mig_apply(site)
        case "mig":
            mig(site, arguments.gpu, parse_layout(arguments.layout))
        case "cdi":
            write_cdi(site)
        case "set":
            settings = _settings(arguments.settings)
            _change(site, lambda t: changes.gauges_set(t, arguments.target, settings, now_s()))
        case "lost" | "hang" | "ok" as state:
            _change(site, lambda t: changes.health_set(t, arguments.gpu, State(state)))
        case "reset":
            reset(site, arguments.gpu)
        case "ecc":
            settings = _settings(arguments.settings)
            _change(site, lambda t: changes.memory_errors_set(t, arguments.gpu, settings))
        case "recovery":
            _change(site, lambda t: changes.recovery_set(t, arguments.gpu, arguments.action))
        case "events":
            events = int(arguments.switch == "on")
            _change(site, lambda t: t.with_gpu(replace(t.gpu(arguments.gpu), events=events)))
        case "driver-mismatch":
            _change(site, lambda t: replace(t, mismatch=arguments.switch == "on"))
        case "xid":
            _change(site, lambda t: changes.xid_added(t, arguments.gpu, arguments.code))
        case "process":
            _process(site, arguments.words)
        case "status":
            print(status(site, as_json=arguments.json))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="fakegpu", description="Simulated GPUs: driver, nvidia-smi mig and nvidia-ctk.")
    top.add_argument("--root", type=Path, default=Path("/"), help="the host's file tree (for tests)")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("boot", help="load the driver as after a reboot: no MIG instances")
    commands.add_parser("mig-apply", help="make the configured MIG instances, nodes and CDI file")
    commands.add_parser("cdi", help="write /etc/cdi/nvidia.yaml")
    cut = commands.add_parser("mig", help="cut one GPU: full, mig, or NxPROFILE[+NxPROFILE]")
    cut.add_argument("gpu", type=int)
    cut.add_argument("layout")
    gauges = commands.add_parser("set", help="set readings: util=85 mem=30000 memutil= temp= power=")
    gauges.add_argument("target", help="GPU, or GPU:INSTANCE for mem=")
    gauges.add_argument("settings", nargs="+")
    for state in State:
        commands.add_parser(state, help=f"make a GPU {state}").add_argument("gpu", type=int)
    commands.add_parser("reset", help="as nvidia-smi --gpu-reset: instances are gone").add_argument("gpu", type=int)
    ecc = commands.add_parser("ecc", help="memory errors: ecc=COUNT rowpending=1 rowfailed=1 pagepending=1")
    ecc.add_argument("gpu", type=int)
    ecc.add_argument("settings", nargs="+")
    recovery = commands.add_parser("recovery", help="what the driver asks for: " + ", ".join(changes.RECOVERY))
    recovery.add_argument("gpu", type=int)
    recovery.add_argument("action")
    events = commands.add_parser("events", help="whether the GPU supports NVML's events")
    events.add_argument("gpu", type=int)
    events.add_argument("switch", choices=("on", "off"))
    mismatch = commands.add_parser("driver-mismatch", help="library and module differ: nvmlInit is refused")
    mismatch.add_argument("switch", choices=("on", "off"))
    xid = commands.add_parser("xid", help="raise an Xid event")
    xid.add_argument("gpu", type=int)
    xid.add_argument("code", type=int)
    process = commands.add_parser("process", help="GPU[:INSTANCE] PID MEM_MIB|unknown [KIND], or clear")
    process.add_argument("words", nargs="+")
    commands.add_parser("status", help="show what is there").add_argument("--json", action="store_true")
    return top


def main() -> int:
    arguments = parser().parse_args()
    try:
        with only_writer(Site(arguments.root)):
            run(arguments)
    except SiteError as exc:
        print(f"fakegpu: {exc}", file=sys.stderr)
        return 1
    except PermissionError as exc:
        print(f"fakegpu: may not change '{exc.filename}': run this as root", file=sys.stderr)
        return 1
    return 0

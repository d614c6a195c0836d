"""systemd over D-Bus. The only importer of dbus_next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dbus_next import BusType, DBusError, Message, MessageType, Variant
from dbus_next.aio import MessageBus

from ds01.common.errors import Unavailable
from ds01.common.slices import Devices, PropertyValue, ScopePlan, SlicePlan, TimerPlan

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = f"{SYSTEMD}.Manager"
LOGIN = "org.freedesktop.login1.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"
CALL_TIMEOUT_S = 10.0
JOB_LOOK_S = 0.005
IN_FLIGHT = 64
"""dbus-daemon refuses more than 128 calls in flight on one connection."""

_SIGNATURES = {bool: "b", int: "t", str: "s"}
_UNKNOWN_UNIT = (f"{SYSTEMD}.NoSuchUnit", f"{SYSTEMD}.LoadFailed")


class Systemd:
    """systemd's manager. Every call raises `Unavailable` when it fails or takes too long."""

    def __init__(self) -> None:
        self._bus: Any = None
        self._connecting = asyncio.Lock()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._reloaded: Callable[[], None] | None = None
        self._logged_in: Callable[[int], None] | None = None
        self._removed: Callable[[str], None] | None = None

    def listen(self, reloaded: Callable[[], None], logged_in: Callable[[int], None]) -> None:
        """From the next call on: `reloaded` after each daemon-reload, and when signals may have been missed;
        `logged_in` with the uid of everybody who logs in."""
        self._reloaded, self._logged_in = reloaded, logged_in

    def listen_to_ends(self, removed: Callable[[str], None]) -> None:
        """From the next call on: `removed` with the name of each unit that systemd forgets, and with '' when some may
        have been missed."""
        self._removed = removed

    async def ensure_slice(self, plan: SlicePlan) -> bool:
        """Make the slice with its properties, or set them on the one that runs. True if it was made now."""
        properties = _variants(plan.properties)
        try:
            await self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", [plan.name, "fail", properties, []])
        except DBusError as exc:
            if exc.type != f"{SYSTEMD}.UnitExists":
                raise Unavailable(f"systemd does not make '{plan.name}': {exc.text}") from exc
            await self.set_properties(plan.name, plan.properties)
            return False
        # A drop-in for this name wins over what a unit is started with, and loses against what is set afterwards.
        if await self.drop_ins(plan.name):
            await self.set_properties(plan.name, plan.properties)
        return True

    async def set_properties(self, unit: str, properties: Mapping[str, PropertyValue]) -> None:
        """Change properties of a unit until the next boot. The description of a unit can't be changed."""
        changeable = _variants({name: value for name, value in properties.items() if name != "Description"})
        try:
            await self._call("SetUnitProperties", "sba(sv)", [unit, True, changeable])
        except DBusError as exc:
            raise Unavailable(f"systemd does not set the limits of '{unit}': {exc.text}") from exc

    async def properties(self, unit: str, names: Iterable[str]) -> dict[str, PropertyValue]:
        """Those of `names` that the unit has, as they are now; nothing for a service that is not installed."""
        kind = unit.rpartition(".")[2].capitalize()
        if kind != "Slice" and await self._get(unit, "Unit", "LoadState") != "loaded":
            return {}
        try:
            (found,) = await self._call("GetAll", "s", [f"{SYSTEMD}.{kind}"], path=_path(unit), interface=PROPERTIES)
        except DBusError as exc:
            raise Unavailable(f"systemd does not tell the limits of '{unit}': {exc.text}") from exc
        assert isinstance(found, dict)
        return {name: found[name].value for name in names if name in found}

    async def is_active(self, unit: str) -> bool:
        """Whether it runs now; what an inactive unit will have is decided when it is loaded again."""
        return await self._get(unit, "Unit", "ActiveState") == "active"

    async def drop_ins(self, unit: str) -> list[str]:
        """The files that add to the unit."""
        found = await self._get(unit, "Unit", "DropInPaths")
        return [str(path) for path in found] if isinstance(found, list) else []

    async def _get(self, unit: str, interface: str, name: str) -> object:
        """One property; None where there is no such unit."""
        try:
            body: list[object] = [f"{SYSTEMD}.{interface}", name]
            (found,) = await self._call("Get", "ss", body, path=_path(unit), interface=PROPERTIES)
        except DBusError:
            return None
        return getattr(found, "value", None)

    async def start_scope(self, plan: ScopePlan) -> None:
        """Make a scope and move the process into it that its descriptor stands for; it is there when this returns."""
        properties = [
            *_variants(plan.properties),
            ["Slice", Variant("s", plan.slice)],
            ["CollectMode", Variant("s", "inactive-or-failed")],
            ["DevicePolicy", Variant("s", "closed")],
            ["DeviceAllow", Variant("a(ss)", [[path, mode] for path, mode in plan.devices])],
            ["PIDFDs", Variant("ah", [0])],
        ]
        try:
            body: list[object] = [plan.name, "fail", properties, []]
            await self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", body, descriptors=[plan.pidfd])
        except DBusError as exc:
            raise Unavailable(f"systemd does not make '{plan.name}': {exc.text}") from exc
        await self._let_jobs_end(plan.name)
        if not await self.is_there(plan.name):
            raise Unavailable(f"systemd could not move the process into '{plan.name}': it has ended")

    async def _let_jobs_end(self, unit: str) -> None:
        """The answer to a start says that it is to be done; it is done when the unit has no job any more."""
        deadline = asyncio.get_running_loop().time() + CALL_TIMEOUT_S
        while await self._get(unit, "Unit", "Job") not in (None, [0, "/"]):
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"systemd did not make '{unit}' in {CALL_TIMEOUT_S:g} s")
            await asyncio.sleep(JOB_LOOK_S)

    async def start_timer(self, plan: TimerPlan) -> None:
        """Have systemd run a command at a time; a timer of the same name is left as it is."""
        service = plan.name.removesuffix(".timer") + ".service"
        timer = [
            ["Description", Variant("s", plan.description)],
            ["TimersCalendar", Variant("a(ss)", [["OnCalendar", plan.calendar]])],
            ["AccuracyUSec", Variant("t", 100_000)],
            ["RemainAfterElapse", Variant("b", False)],
        ]
        command = [[plan.argv[0], list(plan.argv), False]]
        work = [
            ["Description", Variant("s", plan.description)],
            ["Type", Variant("s", "oneshot")],
            ["ExecStart", Variant("a(sasb)", command)],
            ["CollectMode", Variant("s", "inactive-or-failed")],
        ]
        try:
            body: list[object] = [plan.name, "fail", timer, [[service, work]]]
            await self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        except DBusError as exc:
            if exc.type != f"{SYSTEMD}.UnitExists":
                raise Unavailable(f"systemd does not make '{plan.name}': {exc.text}") from exc

    async def start(self, unit: str) -> None:
        """Begin to start a unit."""
        try:
            await self._call("StartUnit", "ss", [unit, "replace"])
        except DBusError as exc:
            raise Unavailable(f"systemd does not start '{unit}': {exc.text}") from exc

    async def devices(self, unit: str) -> Devices:
        """The devices that a slice's processes may open beyond the standard ones."""
        found = await self._get(unit, "Slice", "DeviceAllow")
        return tuple((str(path), str(mode)) for path, mode in found) if isinstance(found, list) else ()

    async def set_devices(self, unit: str, devices: Devices) -> None:
        """Let a slice's processes open these devices beyond the standard ones, and no others, until the next boot."""
        empty: list[object] = ["DeviceAllow", Variant("a(ss)", [])]
        allowed: list[object] = ["DeviceAllow", Variant("a(ss)", [[path, mode] for path, mode in devices])]
        try:
            await self._call("SetUnitProperties", "sba(sv)", [unit, True, [empty, allowed]])
        except DBusError as exc:
            raise Unavailable(f"systemd does not set the devices of '{unit}': {exc.text}") from exc

    async def is_there(self, unit: str) -> bool:
        """Whether anything of it may still run: it is active, or on its way down."""
        return await self._get(unit, "Unit", "ActiveState") not in (None, "inactive", "failed")

    async def active(self, patterns: Iterable[str]) -> list[str]:
        """The loaded and active units whose names match."""
        try:
            (rows,) = await self._call("ListUnitsByPatterns", "asas", [["active", "activating"], list(patterns)])
        except DBusError as exc:
            raise Unavailable(f"systemd does not list its units: {exc.text}") from exc
        assert isinstance(rows, list)
        return [str(row[0]) for row in rows]

    async def stop(self, unit: str) -> None:
        """Begin to stop a unit, also one that is being started; one that is not there is no error."""
        try:
            await self._call("StopUnit", "ss", [unit, "replace"])
        except DBusError as exc:
            if exc.type not in _UNKNOWN_UNIT:
                raise Unavailable(f"systemd does not stop '{unit}': {exc.text}") from exc

    async def close(self) -> None:
        """Leave the bus."""
        self._reloaded = self._logged_in = self._removed = None
        if self._bus is not None:
            self._bus.disconnect()

    async def _call(
        self,
        member: str,
        signature: str,
        body: list[object],
        path: str = MANAGER_PATH,
        interface: str = MANAGER,
        descriptors: Sequence[int] = (),
    ) -> list[object]:
        bus = await self._connected()
        message = Message(
            destination=SYSTEMD, path=path, interface=interface, member=member, signature=signature, body=body,
            unix_fds=list(descriptors),
        )  # fmt: skip
        async with self._slots:
            return await self._answer(bus, message)

    async def _answer(self, bus: Any, message: Message) -> list[object]:
        try:
            reply = await asyncio.wait_for(bus.call(message), CALL_TIMEOUT_S)
        except (OSError, EOFError, TimeoutError) as exc:
            bus.disconnect()
            self._bus = None
            raise Unavailable(f"systemd does not answer '{message.member}': {str(exc) or 'no answer in time'}") from exc
        if reply.message_type is MessageType.ERROR:
            raise DBusError(reply.error_name, str(reply.body[0]) if reply.body else "", reply)
        return list(reply.body)

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._bus is None or not self._bus.connected:
                try:
                    self._bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
                    if self._reloaded is not None or self._removed is not None:
                        await self._subscribe(self._bus)
                except (OSError, DBusError, EOFError) as exc:
                    self._bus = None
                    raise Unavailable(f"the system bus does not answer: {exc}") from exc
        return self._bus

    async def _subscribe(self, bus: Any) -> None:
        # By sender: anybody may broadcast a signal of any name.
        rules = []
        if self._reloaded is not None:
            rules.append(f"sender='{SYSTEMD}',interface='{MANAGER}',member='Reloading'")
            rules.append(f"sender='org.freedesktop.login1',interface='{LOGIN}',member='UserNew'")
        if self._removed is not None:
            rules.append(f"sender='{SYSTEMD}',interface='{MANAGER}',member='UnitRemoved'")
        for rule in rules:
            match = Message(
                destination="org.freedesktop.DBus", path="/org/freedesktop/DBus", interface="org.freedesktop.DBus",
                member="AddMatch", signature="s", body=[f"type='signal',{rule}"],
            )  # fmt: skip
            await self._answer(bus, match)
        await self._answer(bus, Message(destination=SYSTEMD, path=MANAGER_PATH, interface=MANAGER, member="Subscribe"))
        bus.add_message_handler(self._signalled)
        watch = asyncio.create_task(bus.wait_for_disconnect(), name="bus")
        watch.add_done_callback(self._disconnected)

    def _signalled(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.member == "Reloading" and message.body == [False] and self._reloaded is not None:
            self._reloaded()
        elif message.member == "UserNew" and message.signature == "uo" and self._logged_in is not None:
            self._logged_in(message.body[0])
        elif message.member == "UnitRemoved" and message.signature == "so" and self._removed is not None:
            self._removed(str(message.body[0]))

    def _disconnected(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled():
            watch.exception()
        if self._reloaded is not None:
            self._reloaded()
        if self._removed is not None:
            self._removed("")


def _path(unit: str) -> str:
    """The object of a unit: every byte but letters and digits as `_` and two hexadecimal digits."""
    encoded = "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 and not (index == 0 and chr(byte).isdigit()) else f"_{byte:02x}"
        for index, byte in enumerate(unit.encode())
    )
    return f"{MANAGER_PATH}/unit/{encoded}"


def _variants(properties: Mapping[str, PropertyValue]) -> list[list[object]]:
    return [[name, Variant(_SIGNATURES[type(value)], value)] for name, value in properties.items()]

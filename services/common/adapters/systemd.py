"""systemd over D-Bus. The only importer of dbus_next."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from dbus_next import BusType, DBusError, Message, MessageType, Variant
from dbus_next.aio import MessageBus

from ds01.common.errors import Unavailable
from ds01.common.slices import PropertyValue, SlicePlan

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = f"{SYSTEMD}.Manager"
CALL_TIMEOUT_S = 10.0

_SIGNATURES = {bool: "b", int: "t", str: "s"}


class Systemd:
    """systemd's manager. Every call raises `Unavailable` when it fails or takes too long."""

    def __init__(self) -> None:
        self._bus: Any = None
        self._connecting = asyncio.Lock()

    async def ensure_slice(self, plan: SlicePlan) -> bool:
        """Make the slice with its properties, or set them on the one that runs. True if it was made now."""
        properties = _variants(plan.properties)
        try:
            await self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", [plan.name, "fail", properties, []])
        except DBusError as exc:
            if exc.type != f"{SYSTEMD}.UnitExists":
                raise Unavailable(f"systemd does not make '{plan.name}': {exc.text}") from exc
            await self._set_properties(plan)
            return False
        return True

    async def close(self) -> None:
        """Leave the bus."""
        if self._bus is not None:
            self._bus.disconnect()

    async def _set_properties(self, plan: SlicePlan) -> None:
        changeable = _variants({name: value for name, value in plan.properties.items() if name != "Description"})
        try:
            await self._call("SetUnitProperties", "sba(sv)", [plan.name, True, changeable])
        except DBusError as exc:
            raise Unavailable(f"systemd does not set the limits of '{plan.name}': {exc.text}") from exc

    async def _call(self, member: str, signature: str, body: list[object]) -> list[object]:
        bus = await self._connected()
        message = Message(
            destination=SYSTEMD, path=MANAGER_PATH, interface=MANAGER, member=member, signature=signature, body=body
        )
        try:
            reply = await asyncio.wait_for(bus.call(message), CALL_TIMEOUT_S)
        except (OSError, EOFError, TimeoutError) as exc:
            self._bus = None
            raise Unavailable(f"systemd does not answer '{member}': {str(exc) or 'no answer in time'}") from exc
        if reply.message_type is MessageType.ERROR:
            raise DBusError(reply.error_name, str(reply.body[0]) if reply.body else "", reply)
        return list(reply.body)

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._bus is None or not self._bus.connected:
                try:
                    self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
                except (OSError, DBusError, EOFError) as exc:
                    raise Unavailable(f"the system bus does not answer: {exc}") from exc
        return self._bus


def _variants(properties: Mapping[str, PropertyValue]) -> list[list[object]]:
    return [[name, Variant(_SIGNATURES[type(value)], value)] for name, value in properties.items()]

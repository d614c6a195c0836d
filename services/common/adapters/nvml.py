"""NVML. The only importer of pynvml; its handles and errors end here.

Every reading opens the library and closes it again. The library counts: it really closes, and begins anew with a
driver that was loaded since, when the last one has closed it. That is `XidEvents`, open as long as it gets answers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import combinations
from typing import Any, TypeVar

import pynvml

from ds01.common.errors import Unavailable
from ds01.common.gpus import (
    MIB,
    Gpu,
    GpuProcess,
    Instance,
    Look,
    NoDriver,
    ProcessList,
    Sight,
    Vitals,
    XidEvent,
    profile_name,
)

_MEDIA_EXTENSIONS = (
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1,
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1,
)
_EVENT_WAIT_MS = 1000
_NO_INSTANCE = 0xFFFFFFFF
"""What NVML puts for the GPU instance of a process on a whole GPU."""

_NOT_OFFERED = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound)
"""This GPU, or this driver, has no such thing."""

_REMEDIES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "its library 'libnvidia-ml.so.1' is missing; install the driver",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "it is not loaded; run 'modprobe nvidia', or see 'dkms status'",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "it was upgraded and not reloaded, so that its library and the kernel module differ; reboot"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "this service may not open '/dev/nvidiactl'; run 'systemctl restart ds01-nvml'",
}

T = TypeVar("T")


@contextmanager
def _library() -> Iterator[None]:
    """NVML, open.

    Raises:
        NoDriver: none is loaded.
        Unavailable: it can't be opened for another reason.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        kind = NoDriver if exc.value == pynvml.NVML_ERROR_DRIVER_NOT_LOADED else Unavailable
        raise kind(f"the NVIDIA driver can't be asked: {_REMEDIES.get(exc.value, f'{exc}; see nvidia-smi')}") from exc
    try:
        yield
    finally:
        with suppress(pynvml.NVMLError):  # it may have forgotten us already
            pynvml.nvmlShutdown()


class NvmlReader:
    """Reads the GPUs. `look` and `processes` may run at the same time, each in one thread at a time."""

    def __init__(self) -> None:
        self._last_good: dict[int, Gpu] = {}

    def look(self) -> Look:
        """The GPUs as they are now; one that answers with an error is in the list, not usable, with the reason.

        Raises:
            NoDriver: none is loaded.
            Unavailable: no library, or NVML as a whole answers with an error.
        """
        with _library():
            driver, count = self._listed()
            sights = [self._sight(index) for index in range(count)]
            links = _links([sight.gpu.index for sight in sights if sight.vitals and not sight.gpu.mig_enabled])
        linked = [replace(s, gpu=replace(s.gpu, links=sorted(links.get(s.gpu.index, ())))) for s in sights]
        return Look(driver, linked)

    def processes(self) -> ProcessList:
        """Who uses the GPUs: compute, graphics and MPS, on whole GPUs and instances.

        Raises:
            NoDriver: none is loaded.
            Unavailable: no library, or NVML as a whole answers with an error.
        """
        found: set[GpuProcess] = set()
        unknown = []
        with _library():
            for index in range(self._listed()[1]):
                try:
                    found |= set(_processes(index))
                except pynvml.NVMLError:
                    unknown.append(self._last_good[index].uuid if index in self._last_good else "")
        return ProcessList(sorted(found, key=lambda one: (one.gpu_uuid, one.gpu_instance, one.pid)), unknown)

    def _listed(self) -> tuple[str, int]:
        """The driver's version and the number of GPUs; indices move when that changes, and names with them."""
        try:
            driver, count = pynvml.nvmlSystemGetDriverVersion(), pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as exc:
            raise Unavailable(f"NVML does not list the GPUs: {exc}; see 'nvidia-smi'") from exc
        if any(index >= count for index in self._last_good):
            self._last_good = {}
        return driver, count

    def _sight(self, index: int) -> Sight:
        try:
            sight = _read_gpu(index)
        except pynvml.NVMLError as exc:
            lost = exc.value == pynvml.NVML_ERROR_GPU_IS_LOST
            known = self._last_good.get(index, Gpu(index, "", -1, "", 0, False, False, "", [], []))
            return Sight(replace(known, usable=False, reason=_why(index, exc), instances=[], links=[]), None, lost=lost)
        self._last_good[index] = sight.gpu
        return sight


def _why(index: int, exc: Any) -> str:
    if exc.value == pynvml.NVML_ERROR_GPU_IS_LOST:
        return f"GPU {index} is lost: it has fallen off the bus or can't be reached; reset it or reboot"
    return f"NVML answers '{exc}' for GPU {index}; see 'nvidia-smi -i {index}'"


def _read_gpu(index: int) -> Sight:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    now, pending = _mig_mode(handle)
    settled = now == pending
    memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    gpu = Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        minor=pynvml.nvmlDeviceGetMinorNumber(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=memory_bytes,
        mig_enabled=now,
        usable=settled,
        reason="" if settled else f"the MIG mode of GPU {index} changes at its next reset",
        instances=list(_instances(handle, memory_bytes)) if now and settled else [],
        links=[],
    )
    return Sight(gpu, _vitals(handle))


def _offered(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except _NOT_OFFERED:
        return None


def _vitals(handle: Any) -> Vitals:
    uncorrected = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    rows = _offered(lambda: pynvml.nvmlDeviceGetRemappedRows(handle))
    pages = _offered(lambda: pynvml.nvmlDeviceGetRetiredPagesPendingStatus(handle))
    return Vitals(
        uncorrected_errors=_offered(
            lambda: int(pynvml.nvmlDeviceGetTotalEccErrors(handle, uncorrected, pynvml.NVML_VOLATILE_ECC))
        ),
        pages_pending=None if pages is None else bool(pages),
        rows_pending=None if rows is None else bool(rows[2]),
        rows_failed=None if rows is None else bool(rows[3]),
        recovery_action=_offered(lambda: _recovery_action(handle)),
        energy_mj=_offered(lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))),
    )


def _recovery_action(handle: Any) -> int | None:
    """NVML_GPU_RECOVERY_ACTION_*; drivers before R565 don't know the field, and say so in its own result or at once."""
    try:
        (field,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    except pynvml.NVMLError_InvalidArgument:
        return None
    return int(field.value.uiVal) if field.nvmlReturn == pynvml.NVML_SUCCESS else None


def _links(whole: list[int]) -> dict[int, set[int]]:
    """Which of these GPUs, whole ones, reach each other over NVLink.

    Asked is whether the pair can (as `nvidia-smi topo -p2p n` does), not each GPU's links: an NVSwitch may be between.
    """
    links: dict[int, set[int]] = {index: set() for index in whole}
    for one, other in combinations(whole, 2):
        if _is_linked(one, other):
            links[one].add(other)
            links[other].add(one)
    return links


def _is_linked(one: int, other: int) -> bool:
    """False as well when a GPU can't say, or is lost by now: no link that works leads to it."""
    try:
        pair = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in (one, other)]
        return bool(
            pynvml.nvmlDeviceGetP2PStatus(*pair, pynvml.NVML_P2P_CAPS_INDEX_NVLINK) == pynvml.NVML_P2P_STATUS_OK
        )
    except pynvml.NVMLError:
        return False


def _processes(index: int) -> Iterator[GpuProcess]:
    """All processes of a GPU; in MIG mode the GPU's own handle lists those of every instance, with its number.

    A GPU that can't list compute processes can't be told; graphics and MPS are things that many GPUs don't have.
    """
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid = pynvml.nvmlDeviceGetUUID(handle)
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    listed += _offered(lambda: pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)) or []
    listed += _offered(lambda: pynvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)) or []
    memory: dict[tuple[int, int], int | None] = {}
    for one in listed:
        instance = -1 if one.gpuInstanceId == _NO_INSTANCE else int(one.gpuInstanceId)
        key = (instance, int(one.pid))
        memory[key] = memory.get(key) if one.usedGpuMemory is None else int(one.usedGpuMemory)
    for (instance, pid), memory_bytes in memory.items():
        yield GpuProcess(uuid, instance, pid, memory_bytes)


class XidEvents:
    """Xid errors from the moment of registration on: NVML tells of none that came before. For one thread."""

    def events(self) -> Iterator[XidEvent]:
        """One after the other, for ever; a GPU that answers only later is registered then.

        Raises:
            NoDriver: none is loaded.
            Unavailable: NVML answers with an error, as it does when a registered GPU is lost. Begin again: the GPUs
                that answer are registered anew. What occurs in between is not told.
        """
        with _library():
            try:
                yield from _event_stream(pynvml.nvmlEventSetCreate())
            except pynvml.NVMLError as exc:
                raise Unavailable(f"NVML tells no Xid errors: {exc}") from exc


def _event_stream(event_set: Any) -> Iterator[XidEvent]:
    names: dict[int | None, str] = {}
    registered: set[int] = set()
    try:
        while True:
            for index in range(pynvml.nvmlDeviceGetCount()):
                if index not in registered and _register(index, event_set, names):
                    registered.add(index)
            try:
                data = pynvml.nvmlEventSetWait_v2(event_set, _EVENT_WAIT_MS)
            except pynvml.NVMLError_Timeout:
                continue
            if data.eventType == pynvml.nvmlEventTypeXidCriticalError:
                yield XidEvent(names.get(_address(data.device), ""), int(data.eventData))
    finally:
        with suppress(pynvml.NVMLError):  # it may have gone with the driver
            pynvml.nvmlEventSetFree(event_set)


def _register(index: int, event_set: Any, names: dict[int | None, str]) -> bool:
    """Whether nothing more is to be done for this GPU: it is registered, or has no events.

    Its name is noted now: a GPU that an Xid tells of may not answer any more.
    """
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        names[_address(handle)] = pynvml.nvmlDeviceGetUUID(handle)
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, event_set)
    except _NOT_OFFERED:
        return True
    except pynvml.NVMLError:
        return False
    return True


def _address(handle: Any) -> int | None:
    """Handles of the same GPU are the same pointer."""
    return ctypes.cast(handle, ctypes.c_void_p).value


def _mig_mode(handle: Any) -> tuple[bool, bool]:
    """MIG mode now and after the next reset; a GPU that can't do MIG has neither."""
    try:
        now, pending = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError_NotSupported:
        return False, False
    return bool(now), bool(pending)


def _instances(gpu: Any, gpu_memory_bytes: int) -> Iterator[Instance]:
    profiles = _profile_numbers(gpu)
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
        except pynvml.NVMLError_NotFound:
            continue
        yield _read_instance(gpu, handle, gpu_memory_bytes, profiles)


def _read_instance(gpu: Any, handle: Any, gpu_memory_bytes: int, profiles: dict[int, int]) -> Instance:
    gpu_instance = pynvml.nvmlDeviceGetGpuInstanceId(handle)
    attributes = pynvml.nvmlDeviceGetAttributes_v2(handle)
    info = pynvml.nvmlGpuInstanceGetInfo(pynvml.nvmlDeviceGetGpuInstanceById(gpu, gpu_instance))
    return Instance(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        gpu_instance=gpu_instance,
        compute_instance=pynvml.nvmlDeviceGetComputeInstanceId(handle),
        profile=profile_name(
            attributes.gpuInstanceSliceCount,
            attributes.computeInstanceSliceCount,
            attributes.memorySizeMB,
            gpu_memory_bytes,
            media_extensions=profiles.get(info.profileId) in _MEDIA_EXTENSIONS,
        ),
        placement_start=info.placement.start,
        placement_size=info.placement.size,
        compute_slices=attributes.computeInstanceSliceCount,
        memory_bytes=attributes.memorySizeMB * MIB,
    )


def _profile_numbers(gpu: Any) -> dict[int, int]:
    """NVML's number of each profile by the id that instances carry: only the number tells media extensions."""
    numbers = {}
    for number in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            numbers[pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, number).id] = number
        except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
            continue
    return numbers

"""NVML. The only importer of pynvml; its handles and errors end here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pynvml

from ds01.common.errors import Unavailable
from ds01.common.gpus import MIB, Gpu, Instance, Inventory, profile_name

_MEDIA_EXTENSIONS = (
    pynvml.NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1,
    pynvml.NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1,
)


class NvmlReader:
    """Reads the GPUs. Not for two threads at once: a call that hangs keeps the reader."""

    def __init__(self) -> None:
        self._open = False
        self._last_good: dict[int, Gpu] = {}

    def inventory(self) -> Inventory:
        """The GPUs as they are now; one that answers with an error is in the list, not usable, with the reason.

        Raises:
            Unavailable: no library, no driver, or NVML as a whole answers with an error.
        """
        self._initialise()
        try:
            driver = pynvml.nvmlSystemGetDriverVersion()
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as exc:
            self._shut_down()
            raise Unavailable(f"NVML does not list the GPUs: {exc}; see 'nvidia-smi'") from exc
        return Inventory(driver, [self._gpu(index) for index in range(count)])

    def _initialise(self) -> None:
        if self._open:
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as exc:
            raise Unavailable(f"there is no NVIDIA driver to ask: {exc}; see 'nvidia-smi'") from exc
        self._open = True

    def _shut_down(self) -> None:
        """Start anew with the next reading: a driver that was reloaded answers only then."""
        self._open = False
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return  # it has forgotten us already

    def _gpu(self, index: int) -> Gpu:
        try:
            gpu = _read_gpu(index)
        except pynvml.NVMLError as exc:
            known = self._last_good.get(index, Gpu(index, "", -1, "", 0, False, False, "", []))
            return replace(known, usable=False, reason=f"NVML answers '{exc}' for GPU {index}", instances=[])
        if gpu.usable:
            self._last_good[index] = gpu
        return gpu


def _read_gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    now, pending = _mig_mode(handle)
    settled = now == pending
    memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        minor=pynvml.nvmlDeviceGetMinorNumber(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=memory_bytes,
        mig_enabled=now,
        usable=settled,
        reason="" if settled else f"the MIG mode of GPU {index} changes at its next reset",
        instances=list(_instances(handle, memory_bytes)) if now and settled else [],
    )


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

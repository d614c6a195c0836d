"""Names of profiles as NVIDIA's tools show them, computed from sizes."""

from __future__ import annotations

import pytest

from ds01.common.gpus import MIB, profile_name


@pytest.mark.parametrize(
    ("gpu_slices", "compute_slices", "memory_mib", "gpu_mib", "media", "name"),
    [
        (1, 1, 4864, 40960, False, "1g.5gb"),
        (1, 1, 4864, 40960, True, "1g.5gb+me"),
        (1, 1, 9856, 40960, False, "1g.10gb"),
        (2, 2, 9856, 40960, False, "2g.10gb"),
        (3, 3, 19968, 40960, False, "3g.20gb"),
        (3, 1, 19968, 40960, False, "1c.3g.20gb"),
        (4, 4, 19968, 40960, False, "4g.20gb"),
        (7, 7, 40192, 40960, False, "7g.40gb"),
        (2, 2, 9984, 40537, False, "2g.10gb"),
        (1, 1, 9728, 81920, False, "1g.10gb"),
        (3, 3, 40448, 81920, False, "3g.40gb"),
        (1, 1, 9984, 81559, False, "1g.10gb"),
        (1, 1, 16384, 143771, False, "1g.18gb"),
        (1, 1, 5952, 24258, False, "1g.6gb"),
        (4, 4, 24125, 24258, False, "4g.24gb"),
    ],
)
def test_profile_name(
    gpu_slices: int, compute_slices: int, memory_mib: int, gpu_mib: int, media: bool, name: str
) -> None:
    assert profile_name(gpu_slices, compute_slices, memory_mib, gpu_mib * MIB, media_extensions=media) == name

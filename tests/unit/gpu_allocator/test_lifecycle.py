from __future__ import annotations

import pytest
from worlds import ALICE, container, instance, lease

from ds01.common.model import HOLDING, ContainerFacts, Lease, LeaseState
from ds01.gpu_allocator.lifecycle import START_GRACE_S, Timeouts, on_clock, on_container, on_renew, release

S = LeaseState
NOW = 2000.0
TIMEOUTS = Timeouts(hold_s=900.0, granted_s=60.0)


def in_state(state: S, until: float | None = None) -> Lease:
    return lease(ALICE, instance(0, 0), state=state, until=until)


def word(text: str, held: Lease) -> ContainerFacts | None:
    """What the engine says: gone, stopped, running or restarting."""
    return None if text == "gone" else container(held, running=text == "running", restarting=text == "restarting")


@pytest.mark.parametrize(
    ("state", "engine", "expected", "event"),
    [
        (S.GRANTED, "stopped", S.BOUND, "gpu.bound"),
        (S.GRANTED, "running", S.ACTIVE, "gpu.activated"),
        (S.GRANTED, "gone", None, ""),
        (S.BOUND, "running", S.ACTIVE, "gpu.activated"),
        (S.BOUND, "stopped", None, ""),
        (S.BOUND, "gone", S.RELEASED, "gpu.released"),
        (S.ACTIVE, "running", None, ""),
        (S.ACTIVE, "restarting", None, ""),
        (S.ACTIVE, "stopped", S.HELD, "gpu.held"),
        (S.ACTIVE, "gone", S.RELEASED, "gpu.released"),
        (S.HELD, "running", S.ACTIVE, "gpu.activated"),
        (S.HELD, "restarting", S.ACTIVE, "gpu.activated"),
        (S.HELD, "stopped", None, ""),
        (S.HELD, "gone", S.RELEASED, "gpu.released"),
        (S.DRAINING, "running", S.ACTIVE, "gpu.activated"),
        (S.DRAINING, "stopped", None, ""),
        (S.DRAINING, "gone", S.RELEASED, "gpu.released"),
        (S.RELEASED, "running", None, ""),
    ],
)
def test_the_engines_word(state: S, engine: str, expected: S | None, event: str) -> None:
    held = in_state(state)
    change = on_container(held, word(engine, held), TIMEOUTS, NOW)
    assert (change.lease.state if change else None) == expected
    assert (change.event if change else "") == event


def test_a_stop_starts_the_hold_and_a_start_ends_it() -> None:
    active = in_state(S.ACTIVE)
    stopped = on_container(active, word("stopped", active), TIMEOUTS, NOW)
    assert stopped is not None
    assert stopped.lease.until == NOW + TIMEOUTS.hold_s
    again = on_container(stopped.lease, word("running", active), TIMEOUTS, NOW + 1)
    assert again is not None
    assert again.lease.until is None


@pytest.mark.parametrize(
    ("state", "until", "expected"),
    [
        (S.GRANTED, NOW - 1, S.DRAINING),
        (S.GRANTED, NOW + 1, None),
        (S.BOUND, NOW - 1, S.DRAINING),
        (S.HELD, NOW - 1, S.DRAINING),
        (S.HELD, NOW + 1, None),
        (S.ACTIVE, None, None),
        (S.DRAINING, None, None),
    ],
)
def test_the_clock(state: S, until: float | None, expected: S | None) -> None:
    change = on_clock(in_state(state, until), NOW)
    assert (change.lease.state if change else None) == expected


@pytest.mark.parametrize(("state", "expected"), [(S.HELD, S.HELD), (S.DRAINING, S.HELD), (S.BOUND, S.BOUND)])
def test_a_renewed_lease_outlives_the_start_it_was_renewed_for(state: S, expected: S) -> None:
    change = on_renew(in_state(state, NOW + 1), NOW)
    assert change is not None
    assert change.lease.state is expected
    assert change.lease.until == NOW + START_GRACE_S


def test_renewing_never_shortens_a_hold() -> None:
    change = on_renew(in_state(S.HELD, NOW + 900), NOW)
    assert change is not None
    assert change.lease.until == NOW + 900


def test_a_running_lease_needs_no_renewal() -> None:
    assert on_renew(in_state(S.ACTIVE), NOW) is None


@pytest.mark.parametrize("state", HOLDING)
def test_any_lease_can_be_released(state: S) -> None:
    assert release(in_state(state), "why", NOW).lease.state is S.RELEASED

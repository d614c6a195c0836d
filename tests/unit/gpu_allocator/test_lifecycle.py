from __future__ import annotations

import pytest
from worlds import ALICE, container, instance, lease

from ds01.common.model import HOLDING, ContainerFacts, Lease, LeaseKind, LeaseState
from ds01.gpu_allocator.lifecycle import (
    START_GRACE_S,
    Change,
    Timeouts,
    on_clock,
    on_container,
    on_processes,
    on_renew,
    on_scope,
    on_units,
    release,
    revoke,
)

S, K = LeaseState, LeaseKind
NOW = 2000.0
TIMEOUTS = Timeouts(hold_s=900.0, created_s=1800.0)


def in_state(state: S, until: float | None = None, kind: K = K.CONTAINER) -> Lease:
    return lease(ALICE, instance(0, 0), state=state, until=until, kind=kind)


def word(text: str, held: Lease) -> ContainerFacts | None:
    """What the engine says: gone, stopped, running or restarting."""
    return None if text == "gone" else container(held, running=text == "running", restarting=text == "restarting")


def became(change: Change | None) -> S | None:
    return change.lease.state if change else None


@pytest.mark.parametrize(
    ("state", "engine", "expected", "event"),
    [
        (S.GRANTED, "stopped", S.BOUND, "gpu.bound"),
        (S.GRANTED, "running", S.ACTIVE, "gpu.activated"),
        (S.GRANTED, "gone", None, ""),
        (S.BOUND, "running", S.ACTIVE, "gpu.activated"),
        (S.BOUND, "restarting", S.ACTIVE, "gpu.activated"),
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
        (S.WAITING, "running", S.ACTIVE, "gpu.activated"),
        (S.WAITING, "stopped", None, ""),
        (S.WAITING, "gone", S.RELEASED, "gpu.released"),
        (S.LOST, "running", None, ""),
        (S.LOST, "restarting", None, ""),
        (S.LOST, "stopped", S.WAITING, "gpu.waiting"),
        (S.LOST, "gone", S.RELEASED, "gpu.released"),
        (S.RELEASED, "running", None, ""),
        (S.RELEASED, "gone", None, ""),
    ],
)
def test_the_engines_word(state: S, engine: str, expected: S | None, event: str) -> None:
    held = in_state(state)
    change = on_container(held, word(engine, held), TIMEOUTS, NOW)
    assert became(change) == expected
    assert (change.event if change else "") == event


@pytest.mark.parametrize(
    ("state", "engine", "until"),
    [
        (S.GRANTED, "stopped", NOW + TIMEOUTS.created_s),
        (S.GRANTED, "running", None),
        (S.ACTIVE, "stopped", NOW + TIMEOUTS.hold_s),
        (S.LOST, "stopped", NOW + TIMEOUTS.hold_s),
        (S.HELD, "running", None),
        (S.DRAINING, "running", None),
    ],
)
def test_how_long_what_follows_from_the_engines_word_lasts(state: S, engine: str, until: float | None) -> None:
    held = in_state(state, NOW + 1)
    change = on_container(held, word(engine, held), TIMEOUTS, NOW)
    assert change is not None
    assert (change.lease.until, change.lease.since) == (until, NOW)


def test_a_lease_is_bound_to_the_container_that_was_made_for_it() -> None:
    granted = in_state(S.GRANTED)
    change = on_container(granted, container(granted, running=False), TIMEOUTS, NOW)
    assert change is not None
    assert change.lease.container == container(granted).id


@pytest.mark.parametrize("kind", [K.HOST, K.LOGIN])
@pytest.mark.parametrize("state", HOLDING)
@pytest.mark.parametrize("engine", ["running", "stopped", "gone"])
def test_no_container_changes_a_lease_that_is_for_none(kind: K, state: S, engine: str) -> None:
    held = in_state(state, kind=kind)
    assert on_container(held, word(engine, held), TIMEOUTS, NOW) is None


@pytest.mark.parametrize(
    ("kind", "state", "gone", "expected", "event"),
    [
        (K.CONTAINER, S.GRANTED, True, S.WAITING, "gpu.waiting"),
        (K.CONTAINER, S.BOUND, True, S.WAITING, "gpu.waiting"),
        (K.CONTAINER, S.HELD, True, S.WAITING, "gpu.waiting"),
        (K.CONTAINER, S.HELD, False, None, ""),
        (K.CONTAINER, S.WAITING, True, None, ""),
        (K.CONTAINER, S.WAITING, False, S.HELD, "gpu.returned"),
        (K.CONTAINER, S.ACTIVE, True, S.LOST, "gpu.lost"),
        (K.CONTAINER, S.ACTIVE, False, None, ""),
        (K.CONTAINER, S.LOST, True, None, ""),
        (K.CONTAINER, S.LOST, False, None, ""),
        (K.CONTAINER, S.DRAINING, True, None, ""),
        (K.HOST, S.GRANTED, True, None, ""),
        (K.HOST, S.ACTIVE, True, S.LOST, "gpu.lost"),
        (K.LOGIN, S.ACTIVE, True, S.LOST, "gpu.lost"),
        (K.LOGIN, S.DRAINING, True, None, ""),
    ],
)
def test_what_exists(kind: K, state: S, gone: bool, expected: S | None, event: str) -> None:
    change = on_units(in_state(state, NOW + 5, kind), ("0:0",) if gone else (), NOW)
    assert became(change) == expected
    if change is not None:
        assert change.event == event
        assert change.lease.until == NOW + 5, "the time to wait is the time to hold"


def test_a_lease_whose_container_never_came_is_granted_again() -> None:
    waiting = lease(ALICE, instance(0, 0), state=S.GRANTED)
    gone = on_units(waiting, ("0:0",), NOW)
    assert gone is not None
    assert became(on_units(gone.lease, (), NOW)) is S.GRANTED


@pytest.mark.parametrize(
    ("kind", "state", "exists", "expected"),
    [
        (K.HOST, S.ACTIVE, False, S.DRAINING),
        (K.HOST, S.LOST, False, S.DRAINING),
        (K.HOST, S.ACTIVE, True, None),
        (K.HOST, S.LOST, True, None),
        (K.HOST, S.GRANTED, True, S.ACTIVE),
        (K.HOST, S.GRANTED, False, None),
        (K.HOST, S.DRAINING, True, S.ACTIVE),
        (K.HOST, S.DRAINING, False, None),
        (K.HOST, S.RELEASED, True, None),
        (K.HOST, S.RELEASED, False, None),
        (K.CONTAINER, S.ACTIVE, False, None),
        (K.LOGIN, S.ACTIVE, False, None),
    ],
)
def test_systemds_word(kind: K, state: S, exists: bool, expected: S | None) -> None:
    assert became(on_scope(in_state(state, kind=kind), NOW, exists=exists)) == expected


@pytest.mark.parametrize(
    ("kind", "state", "busy", "expected"),
    [
        (K.HOST, S.DRAINING, False, S.RELEASED),
        (K.HOST, S.DRAINING, True, None),
        (K.HOST, S.DRAINING, None, None),
        (K.HOST, S.ACTIVE, False, None),
        (K.HOST, S.GRANTED, False, None),
        (K.LOGIN, S.DRAINING, False, S.RELEASED),
        (K.LOGIN, S.DRAINING, True, None),
        (K.LOGIN, S.DRAINING, None, None),
        (K.LOGIN, S.ACTIVE, False, None),
        (K.CONTAINER, S.DRAINING, False, None),
    ],
)
def test_nvmls_word_on_processes_where_unknown_is_not_free(
    kind: K, state: S, busy: bool | None, expected: S | None
) -> None:
    assert became(on_processes(in_state(state, kind=kind), NOW, busy=busy)) == expected


@pytest.mark.parametrize(
    ("kind", "state", "until", "expected"),
    [
        (K.CONTAINER, S.GRANTED, NOW - 1, S.DRAINING),
        (K.CONTAINER, S.GRANTED, NOW + 1, None),
        (K.CONTAINER, S.BOUND, NOW - 1, S.DRAINING),
        (K.CONTAINER, S.HELD, NOW - 1, S.DRAINING),
        (K.CONTAINER, S.HELD, NOW, S.DRAINING),
        (K.CONTAINER, S.HELD, NOW + 1, None),
        (K.CONTAINER, S.WAITING, NOW - 1, S.DRAINING),
        (K.CONTAINER, S.WAITING, NOW + 1, None),
        (K.CONTAINER, S.ACTIVE, None, None),
        (K.CONTAINER, S.LOST, None, None),
        (K.CONTAINER, S.DRAINING, None, None),
        (K.HOST, S.GRANTED, NOW - 1, S.DRAINING),
        (K.HOST, S.ACTIVE, None, None),
        (K.LOGIN, S.ACTIVE, NOW - 1, S.DRAINING),
        (K.LOGIN, S.ACTIVE, NOW + 1, None),
        (K.LOGIN, S.LOST, NOW - 1, S.DRAINING),
        (K.LOGIN, S.DRAINING, None, None),
    ],
)
def test_the_clock(kind: K, state: S, until: float | None, expected: S | None) -> None:
    change = on_clock(in_state(state, until, kind), NOW)
    assert became(change) == expected
    if change is not None:
        assert change.event == "gpu.draining"
        assert change.lease.until is None


@pytest.mark.parametrize(
    ("state", "expected"),
    [(S.GRANTED, S.GRANTED), (S.HELD, S.HELD), (S.DRAINING, S.HELD), (S.BOUND, S.BOUND), (S.WAITING, S.WAITING)],
)
def test_a_renewed_lease_outlives_the_start_it_was_renewed_for(state: S, expected: S) -> None:
    change = on_renew(in_state(state, NOW + 1), NOW)
    assert change is not None
    assert change.lease.state is expected
    assert change.lease.until == NOW + START_GRACE_S


def test_renewing_never_shortens_a_hold() -> None:
    change = on_renew(in_state(S.HELD, NOW + 900), NOW)
    assert change is not None
    assert change.lease.until == NOW + 900


@pytest.mark.parametrize("state", [S.ACTIVE, S.LOST])
def test_a_running_lease_needs_no_renewal(state: S) -> None:
    assert on_renew(in_state(state), NOW) is None


@pytest.mark.parametrize("state", HOLDING)
def test_any_lease_can_be_released(state: S) -> None:
    change = release(in_state(state), "why", NOW)
    assert (change.lease.state, change.event, change.reason) == (S.RELEASED, "gpu.released", "why")


@pytest.mark.parametrize("state", [S.ACTIVE, S.LOST])
def test_a_revoked_login_drains_at_once(state: S) -> None:
    change = revoke(in_state(state, NOW + 900, K.LOGIN), "root ended it", NOW)
    assert (change.lease.state, change.lease.until, change.event) == (S.DRAINING, None, "gpu.draining")

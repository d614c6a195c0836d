"""Programs in scopes and login sessions: what they may open, and when their units are free."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from engine_world import NODES
from scene import Scene, play
from worlds import ALICE, BOB, CUT_ANEW, REFERENCE_SITE, RESEARCHER, RITA, STUDENT, instance, whole

from ds01.common.errors import LedgerBroken, PeerRefused, Unavailable
from ds01.common.gpus import GpuProcess
from ds01.common.model import Denied, Entry, Lease, LeaseKind, LeaseState, Reason
from ds01.common.processes import Place

FIRST = instance(0, 0)
NOBODY = 65534
"""The uid of the account 'nobody', whom logins are opened for."""

SLICE = f"user-{NOBODY}.slice"


async def program(scene: Scene, uid: int, gpus: str = "1") -> Lease:
    lease = await scene.program(uid, gpus)
    assert isinstance(lease, Lease), lease
    return lease


async def login(scene: Scene, gpus: str = "1", for_s: float = 3600.0) -> Lease:
    lease = await scene.login("nobody", gpus, for_s)
    assert isinstance(lease, Lease), lease
    return lease


def compute(scene: Scene, pid: int, uid: int, scope: str = "", container: str = "", *, service: bool = False) -> None:
    """A process of `uid` computes on 0:0."""
    scene.places[pid] = Place(uid, f"user{uid}", container, scope, service)
    scene.gpus.compute(pid, FIRST)


def end_scope(scene: Scene, lease: Lease) -> None:
    del scene.units.scopes[lease.scope]


# --- programs --------------------------------------------------------------------------------------------------------


def test_a_program_runs_in_a_scope_that_may_open_its_nodes_and_no_others(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        assert (lease.state, lease.kind, lease.until) == (LeaseState.ACTIVE, LeaseKind.HOST, None)
        plan = scene.units.scopes[lease.scope]
        assert dict(plan.devices) == {f"{NODES}MIG-0-0": "rw", "/dev/nvidiactl": "rw"}
        assert plan.slice == f"ds01-student-user{ALICE}.slice"

    play(tmp_path, story)


def test_a_program_has_the_limits_of_one_container(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        found = scene.units.scopes[lease.scope].properties
        assert found["MemoryMax"] == STUDENT.memory_bytes
        assert found["MemorySwapMax"] == 0
        assert found["TasksMax"] == STUDENT.pids
        assert found["CPUQuotaPerSecUSec"] == 16_000_000
        assert found["RuntimeMaxUSec"] == int((48 + 72 + 24) * 3600e6)

    play(tmp_path, story)


def test_without_a_longest_runtime_nothing_ends_a_program(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        assert "RuntimeMaxUSec" not in scene.units.scopes[lease.scope].properties

    play(tmp_path, story, replace(STUDENT, max_runtime_s=None))


def test_no_gpu_is_a_scope_that_may_open_none(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE, "0")
        assert scene.units.scopes[lease.scope].devices == ()
        assert [one.units for one in scene.book.leases] in ([], [()])

    play(tmp_path, story)


def test_a_program_is_denied_like_a_container(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        assert isinstance(denied := await scene.program(ALICE, "3"), Denied)
        assert denied.reason is Reason.OVER_UNITS_PER_CONTAINER
        assert scene.units.scopes == {}

    play(tmp_path, story)


@pytest.mark.parametrize("what", ["scope", "slice"])
def test_a_scope_that_can_not_be_made_ends_the_lease(tmp_path: Path, what: str) -> None:
    async def story(scene: Scene) -> None:
        scene.units.scope_error, scene.slice_error = ("no", "") if what == "scope" else ("", "no")
        with pytest.raises(Unavailable):
            await scene.program(ALICE)
        assert scene.book.leases == ()

    play(tmp_path, story)


def test_a_scope_of_which_systemd_does_not_say_whether_it_was_made_is_waited_for(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.units.silent = True
        with pytest.raises(Unavailable):
            await scene.program(ALICE)
        scene.units.silent = False
        await scene.allocator.look()
        assert [lease.unit_names for lease in scene.book.leases] == ["0:0"]
        await scene.pass_time(61)
        await scene.allocator.look()
        assert scene.book.leases == ()

    play(tmp_path, story)


def test_a_scope_that_was_made_after_all_keeps_the_unit(tmp_path: Path) -> None:
    """systemd did not answer in time, and made it: the process may open the nodes."""

    async def story(scene: Scene) -> None:
        scene.units.slow = True
        with pytest.raises(Unavailable):
            await scene.program(ALICE)
        await scene.allocator.look()
        await scene.pass_time(3600)
        await scene.allocator.look()
        held = {unit.name for lease in scene.book.leases for unit in lease.units}
        assert held == {"0:0"}, scene.units.scopes

    play(tmp_path, story)


def test_one_request_twice_at_once_is_one_program(tmp_path: Path) -> None:
    """The second can't have the scope of the first, and must not end the lease under it."""

    async def story(scene: Scene) -> None:
        verdicts = await asyncio.gather(*(scene.program(ALICE, request="p") for _ in range(2)), return_exceptions=True)
        assert sum(isinstance(one, Lease) for one in verdicts) == 1
        (scope,) = scene.units.scopes
        assert [lease.scope for lease in scene.book.leases] == [scope]

    play(tmp_path, story)


def test_one_request_twice_of_which_one_fails_is_still_one_program(tmp_path: Path) -> None:
    """A second caller who is dead before his turn must not end the lease whose scope is being made for the first."""

    async def story(scene: Scene) -> None:
        scene.units.hold = asyncio.Event()
        first = asyncio.create_task(scene.program(ALICE, request="p"))
        await scene.settle()
        scene.slice_error = "the caller is gone"
        second = asyncio.create_task(scene.program(ALICE, request="p"))
        await scene.settle()
        assert isinstance(await scene.lease(BOB, "0:0"), Denied)
        scene.units.hold.set()
        lease = await first
        with pytest.raises(Unavailable):
            await second
        assert isinstance(lease, Lease)
        assert [one.id for one in scene.book.leases] == [lease.id]

    play(tmp_path, story)


def test_a_scope_whose_lease_could_not_be_noted_as_active_keeps_the_unit(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.units.meanwhile = scene.break_ledger
        with pytest.raises(LedgerBroken):
            await scene.program(ALICE)
        scene.break_ledger(broken=False)
        await scene.pass_time(61)
        await scene.allocator.look()
        assert [lease.unit_names for lease in scene.book.leases] == ["0:0"]

    play(tmp_path, story)


def test_a_scope_outlives_an_allocator_that_died_before_it_could_note_it(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await scene.program(ALICE)
        assert isinstance(lease, Lease)
        granted = replace(lease, state=LeaseState.GRANTED, until=scene.now + 60)
        scene.ledger.write([Entry(leases=(granted,))])
        scene.crash()
        await scene.allocator.look()
        await scene.side.reconcile()
        await scene.pass_time(61)
        await scene.allocator.look()
        assert [one.id for one in scene.book.leases] == [lease.id]

    play(tmp_path, story)


def test_a_unit_is_free_when_the_scope_has_ended_and_nobody_of_the_user_is_on_it(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        end_scope(scene, lease)
        await scene.hosts.compare_scopes()
        assert scene.state(lease) is LeaseState.DRAINING
        await scene.hosts.look()
        assert scene.state(lease) is None

    play(tmp_path, story)


@pytest.mark.parametrize("uid", [ALICE, BOB])
def test_what_escaped_its_scope_keeps_the_unit_and_what_is_somebody_elses_does_not(tmp_path: Path, uid: int) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        compute(scene, 7, uid)
        end_scope(scene, lease)
        await scene.hosts.look()
        assert scene.state(lease) is (LeaseState.DRAINING if uid == ALICE else None)
        scene.gpus.end(7)
        await scene.hosts.look()
        assert scene.state(lease) is None

    play(tmp_path, story)


@pytest.mark.parametrize("unknown", ["GPU-0", ""])
def test_unknown_is_not_free(tmp_path: Path, unknown: str) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        scene.gpus.unknown = {unknown}
        if not unknown:
            scene.gpus.units = REFERENCE_SITE
        end_scope(scene, lease)
        await scene.hosts.look()
        # A GPU without a name is none of those that are listed.
        assert scene.state(lease) is (LeaseState.DRAINING if unknown else None)
        scene.gpus.unknown = set()
        await scene.hosts.look()
        assert scene.state(lease) is None

    play(tmp_path, story)


def test_a_process_on_an_instance_that_is_not_told_may_be_on_any_of_its_gpu(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        scene.places[7] = Place(ALICE, f"user{ALICE}", "", "")
        scene.gpus.processes.append(GpuProcess(FIRST.key.gpu_uuid, -1, 7, 1))
        end_scope(scene, lease)
        await scene.hosts.look()
        assert scene.state(lease) is LeaseState.DRAINING

    play(tmp_path, story)


def test_silent_gpus_free_no_unit(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        end_scope(scene, lease)
        scene.gpus.units = None
        with pytest.raises(Unavailable):
            await scene.hosts.look()
        assert scene.state(lease) is LeaseState.DRAINING

    play(tmp_path, story)


def test_a_silent_systemd_ends_nothing(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        scene.units.silent = True
        with pytest.raises(Unavailable):
            await scene.hosts.look()
        assert scene.state(lease) is LeaseState.ACTIVE

    play(tmp_path, story)


def test_a_program_goes_on_over_a_crash_of_the_allocator(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        scene.crash()
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.ACTIVE
        end_scope(scene, lease)
        scene.crash()
        await scene.allocator.look()
        assert scene.state(lease) is None, "an end that was missed is seen"

    play(tmp_path, story)


def test_a_request_that_has_its_program_gets_no_second(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        assert isinstance(await scene.program(ALICE, request="p"), Lease)
        with pytest.raises(Unavailable, match="was used"):
            await scene.program(ALICE, request="p")

    play(tmp_path, story)


def test_the_end_of_a_scope_is_looked_at_soon(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE)
        end_scope(scene, lease)
        scene.hosts.ended(lease.scope)
        await asyncio.sleep(0.7)
        assert scene.state(lease) is None

    play(tmp_path, story)


def test_a_program_waits_for_its_turn(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = REFERENCE_SITE[:1]
        held, identity = await scene.run(BOB)
        turn = asyncio.create_task(scene.program(ALICE, wait_s=60.0))
        await scene.settle()
        assert not turn.done()
        await scene.remove(held, identity)
        lease = await turn
        assert isinstance(lease, Lease)
        assert lease.state is LeaseState.ACTIVE
        assert lease.scope in scene.units.scopes

    play(tmp_path, story)


# --- logins ----------------------------------------------------------------------------------------------------------


def test_a_login_may_open_what_was_granted_and_a_timer_closes_it(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await login(scene)
        assert (lease.state, lease.uid, lease.until) == (LeaseState.ACTIVE, NOBODY, scene.now + 3600)
        assert dict(scene.units.opened[SLICE]) == {
            "char-pts": "rw",
            f"{NODES}MIG-0-0": "rw",
            "/dev/nvidiactl": "rw",
        }
        timer = scene.units.timers[f"ds01-{lease.id}.timer"]
        assert timer.calendar == "1970-01-12 14:46:40 UTC"
        assert timer.argv[-2:] == ("DeviceAllow=", "DeviceAllow=char-pts rw")

    play(tmp_path, story)


def test_the_end_of_its_time_closes_a_login_and_frees_the_unit(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await login(scene)
        await scene.pass_time(3601)
        assert scene.state(lease) is LeaseState.DRAINING
        assert scene.units.opened[SLICE] == (("char-pts", "rw"),)
        assert scene.units.timers == {}
        assert "login.closed" in scene.journal.names()
        await scene.allocator.look()
        assert scene.state(lease) is None

    play(tmp_path, story)


def test_programs_that_have_the_gpu_open_keep_it_after_the_time(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await login(scene)
        compute(scene, 7, NOBODY)
        await scene.pass_time(3601)
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.DRAINING
        assert isinstance(await scene.lease(ALICE, "0:0"), Denied)
        scene.gpus.end(7)
        await scene.allocator.look()
        assert isinstance(await scene.lease(ALICE, "0:0"), Lease)

    play(tmp_path, story)


def test_the_end_of_one_of_two_grants_leaves_the_other_open(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await login(scene, "0:0", 600.0)
        other = await login(scene, "0:1", 3600.0)
        assert scene.units.may_open(SLICE) == {"MIG-0-0", "MIG-0-1"}
        await scene.pass_time(601)
        assert scene.units.may_open(SLICE) == {"MIG-0-1"}
        assert list(scene.units.timers) == [f"ds01-{other.id}.timer"]

    play(tmp_path, story)


def test_a_timer_that_closed_everything_leaves_the_other_grant_open(tmp_path: Path) -> None:
    """systemd's timer knows of its own grant alone."""

    async def story(scene: Scene) -> None:
        first = await login(scene, "0:0", 600.0)
        await login(scene, "0:1", 3600.0)
        scene.units.opened[SLICE] = (("char-pts", "rw"),)
        scene.hosts.ended(f"ds01-{first.id}.service")
        await scene.settle()
        assert "MIG-0-1" in scene.units.may_open(SLICE)

    play(tmp_path, story)


def test_what_was_opened_is_open_again_after_a_boot(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await login(scene)
        scene.units.opened, scene.units.timers = {}, {}
        scene.crash()
        await scene.allocator.look()
        await scene.hosts.restore_logins()
        assert scene.units.may_open(SLICE) == {"MIG-0-0"}
        assert list(scene.units.timers) == [f"ds01-{lease.id}.timer"]

    play(tmp_path, story)


def test_an_administrator_may_end_it_before_its_time(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await login(scene)
        root = scene.peer(0, is_admin=True)
        await scene.allocator.revoke(root, lease.id)
        assert scene.state(lease) is LeaseState.DRAINING
        assert scene.units.may_open(SLICE) == set()
        assert scene.units.timers == {}
        with pytest.raises(PeerRefused):
            await scene.allocator.revoke(root, lease.id)
        await scene.allocator.look()
        assert scene.state(lease) is None

    play(tmp_path, story)


def test_a_lease_of_a_container_can_not_be_revoked(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, _ = await scene.run(ALICE)
        with pytest.raises(PeerRefused):
            await scene.allocator.revoke(scene.peer(0, is_admin=True), lease.id)
        assert scene.state(lease) is LeaseState.ACTIVE

    play(tmp_path, story)


def test_a_grant_stands_above_quotas_and_below_other_leases(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.run(ALICE, "0:0")
        lease = await login(scene, "2xfull")
        assert lease.unit_names == "2,3"
        assert isinstance(denied := await scene.login("nobody", "0:0"), Denied)
        assert denied.reason is Reason.NONE_FREE

    play(tmp_path, story, replace(STUDENT, max_gpu_units_per_container=1, max_mig_instances=1))


@pytest.mark.parametrize("for_s", [-1.0, 0.0, 400 * 86400.0, float("nan"), float("inf")])
def test_a_time_that_makes_no_sense_grants_nothing(tmp_path: Path, for_s: float) -> None:
    async def story(scene: Scene) -> None:
        with pytest.raises((Unavailable, PeerRefused)):
            await scene.login("nobody", "1", for_s)
        assert scene.book.leases == ()

    play(tmp_path, story)


@pytest.mark.parametrize("way", ["revoke", "time"])
def test_what_could_not_be_closed_is_not_free(tmp_path: Path, way: str) -> None:
    async def story(scene: Scene) -> None:
        lease = await login(scene)
        scene.units.silent = True
        if way == "time":
            await scene.pass_time(3601)
        else:
            with pytest.raises(Unavailable):
                await scene.allocator.revoke(scene.peer(0, is_admin=True), lease.id)
        for silent in (True, False):
            scene.units.silent = silent
            try:
                await scene.allocator.look()
            except Unavailable:
                assert silent
            assert scene.state(lease) is not None or not scene.units.may_open(SLICE)
        await scene.allocator.look()
        assert scene.state(lease) is None, "and it is closed as soon as it can be"
        assert scene.units.may_open(SLICE) == set()

    play(tmp_path, story)


def test_what_an_allocator_that_died_did_not_close_is_not_free(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await login(scene)
        scene.units.silent = True
        with pytest.raises(Unavailable):
            await scene.allocator.revoke(scene.peer(0, is_admin=True), lease.id)
        scene.units.silent = False
        scene.crash()
        await scene.allocator.look()
        await scene.hosts.restore_logins()
        assert scene.state(lease) is not None or not scene.units.may_open(SLICE)

    play(tmp_path, story)


def test_a_grant_that_can_not_be_opened_is_none(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.units.silent = True
        with pytest.raises(Unavailable):
            await scene.login("nobody")
        scene.units.silent = False
        await scene.allocator.look()
        assert scene.book.leases == ()

    play(tmp_path, story)


def test_a_grant_without_a_timer_is_not_left_open(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.units.timer_error = "systemd does not make the timer"
        with pytest.raises(Unavailable):
            await scene.login("nobody")
        await scene.allocator.look()
        held = {unit.name for lease in scene.book.leases for unit in lease.units}
        assert held or not scene.units.may_open(SLICE)

    play(tmp_path, story)


def test_a_login_whose_unit_is_gone_is_lost_and_ends_with_its_time(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await login(scene, "0:0")
        scene.gpus.units = CUT_ANEW
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.LOST
        await scene.pass_time(3601)
        await scene.allocator.look()
        assert scene.state(lease) is None
        assert scene.units.may_open(SLICE) == set()

    play(tmp_path, story)


@pytest.mark.parametrize("kind", ["program", "login"])
def test_what_opened_a_unit_that_vanished_does_not_open_the_next_one(tmp_path: Path, kind: str) -> None:
    """The next unit that is made may get the very nodes of the old one."""

    async def story(scene: Scene) -> None:
        lease = await (program(scene, ALICE, "0:0") if kind == "program" else login(scene, "0:0"))
        scene.gpus.units = CUT_ANEW
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.LOST
        closed = lease.scope if kind == "program" else SLICE
        assert not [path for path, _ in scene.units.opened[closed] if "nvidia" in path]

    play(tmp_path, story)


# --- processes without a lease --------------------------------------------------------------------------------------


def test_an_intruder_is_told_once_and_his_unit_is_given_to_nobody(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        compute(scene, 7, BOB)
        for _ in range(2):
            await scene.allocator.look()
            await scene.settle()
        assert scene.journal.names().count("gpu.intruded") == 1
        assert isinstance(await scene.lease(ALICE, "0:0"), Denied)
        scene.gpus.end(7)
        await scene.allocator.look()
        assert isinstance(await scene.lease(ALICE, "0:0"), Lease)

    play(tmp_path, story)


def test_an_intruder_on_somebodys_unit_is_told_with_whose_it_is(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, _ = await scene.run(ALICE)
        compute(scene, 7, BOB)
        await scene.allocator.look()
        await scene.settle()
        event = next(event for event in scene.journal.events if event.name == "gpu.intruded")
        assert (event.lease, event.uid, event.gpu) == (lease.id, BOB, "0:0")

    play(tmp_path, story)


def test_an_intruder_comes_into_nobodys_turn(tmp_path: Path) -> None:
    """Somebody waits; the unit comes free of its lease, and a process without one is on it."""

    async def story(scene: Scene) -> None:
        scene.gpus.units = REFERENCE_SITE[:1]
        held, identity = await scene.run(BOB)
        turn = asyncio.create_task(scene.lease(ALICE, wait_s=60.0))
        await scene.settle()
        compute(scene, 7, RITA)
        await scene.hosts.look()
        await scene.remove(held, identity)
        await scene.settle()
        assert not turn.done()
        scene.gpus.end(7)
        await scene.allocator.look()
        assert isinstance(await turn, Lease)

    play(tmp_path, story)


@pytest.mark.parametrize("where", ["scope", "container", "login", "service"])
def test_who_is_no_intruder(tmp_path: Path, where: str) -> None:
    async def story(scene: Scene) -> None:
        if where == "scope":
            lease = await program(scene, ALICE)
            compute(scene, 7, ALICE, scope=lease.scope)
        elif where == "container":
            _, identity = await scene.run(ALICE)
            compute(scene, 7, ALICE, container=identity)
        elif where == "login":
            await login(scene)
            compute(scene, 7, NOBODY)
        else:
            compute(scene, 7, 0, service=True)
        await scene.allocator.look()
        await scene.settle()
        assert "gpu.intruded" not in scene.journal.names()

    play(tmp_path, story)


@pytest.mark.parametrize("where", ["beside its scope", "another scope", "another container", "no container"])
def test_who_is_one_with_a_lease_on_that_very_unit(tmp_path: Path, where: str) -> None:
    async def story(scene: Scene) -> None:
        if where.endswith("container"):
            await scene.run(ALICE)
            compute(scene, 7, ALICE, container="c" if where.startswith("another") else "")
        else:
            await program(scene, ALICE)
            compute(scene, 7, ALICE, scope="ds01-lother.scope" if where.startswith("another") else "")
        await scene.allocator.look()
        await scene.settle()
        assert scene.journal.names().count("gpu.intruded") == 1

    play(tmp_path, story)


def test_whole_gpus_are_leased_to_programs_too(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await program(scene, ALICE, "full")
        assert lease.units[0].key == whole(2).key
        assert (f"{NODES}GPU-2", "rw") in scene.units.scopes[lease.scope].devices

    play(tmp_path, story, RESEARCHER)

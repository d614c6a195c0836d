from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from engine_world import NODES
from scene import Scene, play
from worlds import ALICE, BOB, REFERENCE_SITE, STUDENT

from ds01.common.errors import LedgerBroken, Unavailable
from ds01.common.model import Denied, Lease, LeaseState, Reason


def test_a_container_runs_on_its_unit_and_gives_it_back(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        assert scene.state(lease) is LeaseState.ACTIVE
        assert scene.devices.nodes() == {lease.id: ["MIG-0-0"]}
        del scene.engine.containers[identity]
        await scene.side.observe(lease.id)
        assert scene.state(lease) is None
        assert scene.devices.nodes() == {}
        assert scene.journal.names()[-3:] == ["gpu.granted", "gpu.activated", "gpu.released"]

    play(tmp_path, story)


def test_five_at_once_for_the_last_unit(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = REFERENCE_SITE[:1]
        verdicts = await asyncio.gather(*(scene.lease(uid) for uid in range(2001, 2006)))
        assert sum(isinstance(item, Lease) for item in verdicts) == 1
        assert {item.reason for item in verdicts if isinstance(item, Denied)} == {Reason.NONE_FREE}

    play(tmp_path, story)


def test_the_same_request_has_the_same_lease_also_after_a_crash(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        first = await scene.lease(ALICE, request="r1")
        assert await scene.lease(ALICE, request="r1") == first
        scene.crash()
        await scene.side.reconcile()
        again = await scene.lease(ALICE, request="r1")
        assert isinstance(first, Lease)
        assert isinstance(again, Lease)
        assert again.id == first.id
        assert len(scene.book.leases) == 1

    play(tmp_path, story)


def test_a_request_whose_lease_was_used_gets_no_lease_again(tmp_path: Path) -> None:
    """A second container with the same request id would run on a lease that ends with the first."""

    async def story(scene: Scene) -> None:
        lease, _ = await scene.run(ALICE)
        with pytest.raises(Unavailable, match="was used"):
            await scene.lease(ALICE, request=lease.request_id)

    play(tmp_path, story)


def test_a_lease_that_was_given_back_before_a_container_came_is_had_again(tmp_path: Path) -> None:
    """The engine died under the create; whoever asked asks again, by the same request."""

    async def story(scene: Scene) -> None:
        first = await scene.lease(ALICE, request="r1")
        assert isinstance(first, Lease)
        await scene.allocator.release(first.id, "the engine refused to create the container")
        assert scene.book.leases == ()
        again = await scene.lease(ALICE, request="r1")
        assert isinstance(again, Lease)
        assert (again.id, again.state, scene.state(again)) == (first.id, LeaseState.GRANTED, LeaseState.GRANTED)

    play(tmp_path, story)


def test_units_are_not_free_while_any_container_carries_the_lease(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        second = scene.engine.create(lease.id, ALICE)
        scene.engine.set(second, running=True)
        del scene.engine.containers[identity]
        await scene.side.observe(lease.id)
        await scene.allocator.release(lease.id, "the first was removed")
        assert scene.state(lease) is LeaseState.ACTIVE
        del scene.engine.containers[second]
        await scene.side.observe(lease.id)
        assert scene.state(lease) is None

    play(tmp_path, story)


def test_one_container_that_hangs_says_nothing_about_the_engine(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        stuck, identity = await scene.run(ALICE)
        other, gone = await scene.run(BOB)
        scene.engine.stuck.add(identity)
        del scene.engine.containers[gone]
        await scene.side.reconcile()
        assert scene.state(stuck) is LeaseState.ACTIVE, "a look that failed is not 'not running'"
        assert scene.state(other) is None
        assert isinstance(await scene.lease(BOB), Lease)
        assert "engine.lost" not in scene.journal.names()

    play(tmp_path, story)


def test_one_container_that_hangs_and_has_lost_its_unit_keeps_nothing_else_from_being_looked_at(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        scene.gpus.units = REFERENCE_SITE[1:]
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.LOST
        scene.engine.stuck.add(identity)
        program = await scene.program(BOB)
        assert isinstance(program, Lease)
        scene.units.scopes.clear()
        await scene.allocator.look()
        assert scene.state(program) is None

    play(tmp_path, story)


def test_a_unit_that_got_the_nodes_of_a_lost_one_is_given_to_nobody_while_they_are_in_use(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        scene.gpus.units = REFERENCE_SITE[1:]
        await scene.allocator.look()
        scene.strange = (f"{NODES}MIG-0-1",)
        await scene.allocator.look()
        assert isinstance(denied := await scene.lease(BOB, "0:1"), Denied)
        assert denied.reason is Reason.NONE_FREE
        await scene.stop(lease, identity)
        await scene.allocator.look()
        assert isinstance(await scene.lease(BOB, "0:1"), Lease)

    play(tmp_path, story)


def test_denials_in_a_loop_are_rows_but_not_a_flood_in_the_journal(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        for _ in range(60):
            assert isinstance(await scene.lease(ALICE, gpus=3), Denied)
        assert scene.ledger.count_records("gpu.denied") == 60
        assert scene.journal.names().count("gpu.denied") < 30

    play(tmp_path, story)


def test_a_request_id_of_somebody_else_is_another_request(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        one, other = await scene.lease(ALICE, request="r1"), await scene.lease(BOB, request="r1")
        assert isinstance(one, Lease)
        assert isinstance(other, Lease)
        assert one.units != other.units

    play(tmp_path, story)


def test_a_granted_lease_without_container_ends_by_itself(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await scene.lease(ALICE)
        assert isinstance(lease, Lease)
        scene.now += 59
        scene.allocator.tick()
        assert scene.state(lease) is LeaseState.GRANTED
        scene.now += 2
        scene.allocator.tick()
        await scene.settle()
        assert scene.state(lease) is None

    play(tmp_path, story)


def test_a_stopped_container_keeps_its_unit_for_the_hold(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        scene.engine.set(identity, running=False)
        await scene.side.observe(lease.id)
        assert scene.state(lease) is LeaseState.HELD
        assert lease.id in scene.devices.nodes()
        scene.now += STUDENT.gpu_hold_after_stop_s + 1
        scene.allocator.tick()
        assert scene.state(lease) is LeaseState.DRAINING
        await scene.book.settled()
        assert scene.devices.nodes() == {}
        await scene.settle()
        assert scene.state(lease) is None

    play(tmp_path, story)


def test_a_container_that_starts_while_its_unit_is_taken_away_keeps_it(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        scene.engine.set(identity, running=False)
        await scene.side.observe(lease.id)
        scene.now += STUDENT.gpu_hold_after_stop_s + 1
        scene.allocator.tick()
        scene.engine.set(identity, running=True)
        await scene.settle()
        assert scene.state(lease) is LeaseState.ACTIVE
        assert scene.devices.nodes() == {lease.id: ["MIG-0-0"]}

    play(tmp_path, story)


def test_a_pending_restart_keeps_the_lease_active(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        scene.engine.set(identity, running=False, restarting=True)
        await scene.side.observe(lease.id)
        assert scene.state(lease) is LeaseState.ACTIVE

    play(tmp_path, story)


def test_restart_after_somebody_else_took_the_unit(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = REFERENCE_SITE[:2]
        lease, identity = await scene.run(ALICE)
        scene.engine.set(identity, running=False)
        await scene.side.observe(lease.id)
        scene.now += STUDENT.gpu_hold_after_stop_s + 1
        scene.allocator.tick()
        await scene.settle()
        assert scene.state(lease) is None
        other, _ = await scene.run(BOB)
        assert other.unit_names == "0:0"
        renewed = await scene.renew(lease.id, ALICE)
        assert isinstance(renewed, Lease)
        assert (renewed.id, renewed.unit_names, renewed.container) == (lease.id, "0:1", identity)
        assert scene.devices.nodes() == {other.id: ["MIG-0-0"], lease.id: ["MIG-0-1"]}

    play(tmp_path, story)


def test_renewal_is_denied_with_numbers_when_nothing_is_free(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = REFERENCE_SITE[:1]
        lease, identity = await scene.run(ALICE)
        scene.engine.set(identity, running=False)
        await scene.side.observe(lease.id)
        scene.now += STUDENT.gpu_hold_after_stop_s + 1
        scene.allocator.tick()
        await scene.settle()
        assert scene.state(lease) is None
        await scene.run(BOB)
        verdict = await scene.renew(lease.id, ALICE)
        assert isinstance(verdict, Denied)
        assert verdict.reason is Reason.NONE_FREE

    play(tmp_path, story)


def test_a_lease_of_somebody_else_can_not_be_renewed(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, _ = await scene.run(ALICE)
        with pytest.raises(Unavailable):
            await scene.renew(lease.id, BOB)

    play(tmp_path, story)


def test_a_silent_engine_means_nothing_is_granted_or_released(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        scene.engine.set(identity, running=False)
        await scene.side.observe(lease.id)
        scene.engine.silent = True
        scene.side.lost()
        scene.now += STUDENT.gpu_hold_after_stop_s + 1
        scene.allocator.tick()
        assert scene.state(lease) is LeaseState.HELD
        with pytest.raises(Unavailable):
            await scene.lease(BOB)
        with pytest.raises(Unavailable):
            await scene.allocator.release(lease.id, "so they say")
        assert scene.state(lease) is LeaseState.HELD

    play(tmp_path, story)


def test_release_believes_the_engine_and_not_the_caller(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, _ = await scene.run(ALICE)
        await scene.allocator.release(lease.id, "the container was removed")
        assert scene.state(lease) is LeaseState.ACTIVE

    play(tmp_path, story)


def test_a_forged_label_changes_nothing(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease = await scene.lease(ALICE)
        assert isinstance(lease, Lease)
        forged = scene.engine.create(lease.id, BOB)
        scene.engine.set(forged, running=True)
        await scene.side.observe(lease.id)
        assert scene.state(lease) is LeaseState.GRANTED

    play(tmp_path, story)


def test_silent_gpus_mean_nothing_is_granted(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = None
        with pytest.raises(Unavailable):
            await scene.lease(ALICE)
        assert "nvml.lost" in scene.journal.names()

    play(tmp_path, story)


def test_a_vanished_instance_is_lost_to_what_runs_and_comes_back_with_new_nodes(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        other, _ = await scene.run(BOB)
        scene.gpus.units = REFERENCE_SITE[1:]
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.LOST
        assert scene.state(other) is LeaseState.ACTIVE
        assert scene.devices.nodes() == {other.id: ["MIG-1-0"]}
        assert scene.journal.names().count("gpu.lost") == 1
        notices = (await scene.allocator.overview(scene.peer(ALICE)))["notices"]
        assert "does not exist any more" in notices[0]
        assert (await scene.allocator.overview(scene.peer(BOB)))["notices"] == []
        scene.gpus.units = (replace(REFERENCE_SITE[0], uuid="MIG-0-1"), *REFERENCE_SITE[1:])
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.LOST, "what runs has the nodes of the instance that is gone"
        assert isinstance(denied := await scene.lease(2001, "0:0"), Denied)
        assert denied.reason is Reason.NONE_FREE
        await scene.stop(lease, identity)
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.HELD
        assert scene.devices.nodes()[lease.id] == ["MIG-0-1"]

    play(tmp_path, story)


def test_a_unit_that_is_gone_at_boot_is_waited_for(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        await scene.stop(lease, identity)
        scene.gpus.units = ()
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.WAITING
        assert scene.devices.nodes() == {}
        scene.gpus.units = REFERENCE_SITE
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.HELD
        scene.gpus.units = REFERENCE_SITE[1:]
        await scene.allocator.look()
        await scene.pass_time(STUDENT.gpu_hold_after_stop_s + 1)
        assert scene.state(lease) is None, "a unit is waited for as long as it would have been held"

    play(tmp_path, story)


def test_a_gpu_that_can_not_be_read_changes_no_lease(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, _ = await scene.run(ALICE)
        scene.gpus.withheld = {0: "Xid 79: it has fallen off the bus"}
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.ACTIVE
        assert scene.journal.names()[-1] == "gpu.withheld"
        assert isinstance(denied := await scene.lease(BOB, "0:1"), Denied)
        assert "fallen off the bus" in denied.message
        scene.gpus.withheld = {}
        await scene.allocator.look()
        assert "gpu.restored" in scene.journal.names()
        assert isinstance(await scene.lease(BOB, "0:1"), Lease)

    play(tmp_path, story)


def test_a_full_disk_grants_nothing_and_keeps_what_is_held(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, _ = await scene.run(ALICE)
        scene.ledger._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(LedgerBroken):
            await scene.lease(BOB)
        assert [item.id for item in scene.book.leases] == [lease.id]
        assert scene.devices.nodes() == {lease.id: ["MIG-0-0"]}

    play(tmp_path, story)


def test_denials_are_in_the_ledger_and_in_the_journal(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        assert isinstance(await scene.lease(ALICE, gpus=3), Denied)
        assert scene.ledger.count_records("gpu.denied") == 1
        event = scene.journal.events[-1]
        assert (event.name, event.limit, event.requested) == ("gpu.denied", "2", "3")

    play(tmp_path, story)


CDI_ERROR = 'could not select device driver "cdi" with capabilities: []'


def gave_up(scene: Scene, identity: str, policy: str = "always") -> None:
    """The engine came back and could not restart a container for want of its device."""
    stopped = replace(scene.engine.containers[identity], running=False, restart_policy=policy, error=CDI_ERROR)
    scene.engine.containers[identity] = stopped


def test_a_restart_that_the_engine_gave_up_on_is_made_up_for(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        gave_up(scene, identity)
        scene.crash()
        await scene.allocator.look()
        await scene.side.reconcile()
        assert scene.engine.started == [identity]
        assert scene.state(lease) is LeaseState.ACTIVE
        assert "container.restarted" in scene.journal.names()

    play(tmp_path, story)


def test_a_container_without_a_restart_policy_is_left_alone(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        gave_up(scene, identity, policy="no")
        await scene.side.observe(lease.id)
        assert scene.engine.started == []

    play(tmp_path, story)


def test_nothing_is_started_while_its_unit_is_gone_and_it_is_when_it_comes_back(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        scene.gpus.units = REFERENCE_SITE[1:]
        await scene.allocator.look()
        gave_up(scene, identity)
        await scene.side.observe(lease.id)
        assert scene.engine.started == []
        scene.gpus.units = REFERENCE_SITE
        await scene.allocator.look()
        assert scene.engine.started == [identity]

    play(tmp_path, story)


def test_a_restart_that_fails_again_is_told(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        lease, identity = await scene.run(ALICE)
        gave_up(scene, identity)
        scene.engine.start_error = "no such device"
        await scene.side.observe(lease.id)
        assert scene.state(lease) is LeaseState.HELD
        await scene.settle()
        assert scene.journal.events[-1].name == "container.restart-failed"

    play(tmp_path, story)


def test_a_caller_who_has_gone_gets_nothing(tmp_path: Path) -> None:
    """The GPUs took so long to read that the shim gave up: a lease now would be nobody's."""

    async def story(scene: Scene) -> None:
        caller = scene.caller()
        caller.hang_up()
        with pytest.raises(Unavailable):
            await scene.lease(ALICE, caller=caller)
        assert scene.book.leases == ()

    play(tmp_path, story)

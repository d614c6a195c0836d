#!/usr/bin/env python3
"""The main job, told on a real host: systemd, Docker, four simulated A100, and seven people who share them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from story import TESTHOST, Story

PEOPLE = """\
alice:student,docker
bob:student,docker
carol:student,docker
mallory:student,docker
dave:student,docker
rita:researcher,docker
ada:ds01-admin,docker
"""
STUDENTS = ("alice", "bob", "carol", "mallory", "dave")
ASK = "curl -sS --retry 20 --retry-all-errors --retry-delay 0 --unix-socket /run/docker.sock http://docker/_ping"
POLICY = "/etc/ds01/resource-limits.yaml"
HOLD_S = 3
"""The hold after a stop, shortened from a quarter of an hour so that nobody has to wait for the story."""


def main() -> int:
    """Boot, tell, take the host down again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the host up and say how to log in")
    parser.add_argument("--name", default="demo", help="name of the host (default: demo)")
    arguments = parser.parse_args()
    story = Story(arguments.name)
    subprocess.run([str(TESTHOST), "down", "--name", arguments.name], check=False, capture_output=True)
    with tempfile.NamedTemporaryFile("w") as people:
        people.write(PEOPLE)
        people.flush()
        command = [str(TESTHOST), "up", "--name", arguments.name, "--users", people.name]
        if subprocess.run(command, check=False).returncode:
            return 1
    try:
        tell(story)
        print("\nThat was the main job: every promise above was checked on the running host.")
        return 0
    finally:
        if arguments.keep:
            say_how_to_log_in(arguments.name)
        else:
            subprocess.run([str(TESTHOST), "down", "--name", arguments.name], check=False)


def tell(story: Story) -> None:
    """All scenes in order."""
    shorten_the_hold(story)
    two_doors(story)
    privacy(story)
    quota(story)
    the_last_unit(story)
    bob_waits(story)
    without_a_container(story)
    what_ada_sees(story)
    half_the_memory(story)
    daemons_die(story)
    the_plug_is_pulled(story)
    another_unit(story)
    retired(story)


def shorten_the_hold(story: Story) -> None:
    """An administrator edits the policy: a stopped container keeps its GPU for three seconds."""
    edit = f"s/gpu_hold_after_stop: [0-9]*[mh]/gpu_hold_after_stop: {HOLD_S}s/"
    story.check(story.quietly("ada", "sudo", "sed", "-i", edit, POLICY).status == 0, "the host is up")
    story.check(comes(lambda: hold_of(story) == HOLD_S), "what an administrator saves in the policy is in force")


def two_doors(story: Story) -> None:
    story.scene("Two doors, the same rules: alice deploys, bob types plain docker")
    told = story.types("alice", "container deploy train --image busybox -d")
    story.check(told.status == 0 and "2g.10gb" in told.out, "alice has a container on one MIG instance")
    told = story.types("bob", "docker run -d --name sweep --gpus 1 busybox sleep infinity")
    story.check(told.status == 0, "bob has one too, by an unchanged docker client")
    units = {unit_of(story, "alice"), unit_of(story, "bob")}
    story.check(len(units) == 2, f"on two different units: {', '.join(sorted(units))}")
    nodes = story.types("bob", "docker exec sweep ls /dev/nvidia-caps").out.split()
    story.check(len(nodes) == 2, "and his container has the nodes of exactly one instance")
    bare = story.types("bob", "docker run --rm cuda ls /dev")
    story.check("nvidia" not in bare.out, "without a request there is no GPU, even from an image that asks for all")


def privacy(story: Story) -> None:
    story.scene("Everybody sees their own")
    story.check("train" not in story.types("bob", "docker ps --format '{{.Names}}'").out, "bob does not see alice's")
    story.check("sweep" not in story.types("alice", "docker ps --format '{{.Names}}'").out, "alice does not see bob's")
    told = story.types("bob", "docker exec train._.1001 id")
    story.check(told.status != 0 and "uid=" not in told.out, "bob's exec into alice's container is refused")


def quota(story: Story) -> None:
    story.scene("mallory asks for more than her share")
    told = story.types("mallory", "container deploy big --image busybox --gpus 3 -d")
    story.check(told.status == 77 and "3" in told.err and "2" in told.err, "refused with both numbers, exit status 77")
    told = story.types("mallory", "docker run --rm --gpus 3 busybox true")
    story.check(told.status == 125 and "Error response from daemon" in told.err, "and by docker in docker's own way")


def the_last_unit(story: Story) -> None:
    story.scene("Five students ask at once for the last unit")
    told = story.types("rita", "container deploy filler --image busybox --gpus 3 -d", most=1)
    story.check(told.status == 0, "rita takes three of the four instances that are left")
    argv = ("docker", "run", "-d", "--name", "race", "--gpus", "1", "busybox", "sleep", "infinity")
    with ThreadPoolExecutor(len(STUDENTS)) as pool:
        asked = {
            user: pool.submit(story.quietly, user, *(word.replace("race", f"race-{user}") for word in argv))
            for user in STUDENTS
        }
    answers = {user: future.result() for user, future in asked.items()}
    for user, answer in answers.items():
        said = next((line for line in answer.err.splitlines() if "Error" in line), answer.text.strip())
        print(f"    {user:8} {'got it' if answer.status == 0 else said.removeprefix('docker: ')}")
    winners = [user for user, answer in answers.items() if answer.status == 0]
    story.check(len(winners) == 1, f"exactly one got it: {', '.join(winners)}")
    story.types("alice", "ds01 status", most=14)
    for user in STUDENTS:
        story.quietly(user, "docker", "rm", "-f", f"race-{user}")
    story.quietly("rita", "container", "retire", "--force", "filler")


def bob_waits(story: Story) -> None:
    story.scene("bob waits for his turn, and his container starts by itself")
    told = story.types("rita", "container deploy filler --image busybox --gpus 4 -d", most=1)
    story.check(told.status == 0, "rita has all that was left")
    line = "container deploy night --image busybox --wait=10m -d"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(story.quietly, "bob", "sh", "-c", line)
        story.check(comes(lambda: places(story)), "bob asks for one more and waits for it")
        story.types("bob", "ds01 queue")
        told = story.types("carol", "docker run -d --gpus 1 busybox sleep infinity", most=3)
        story.check(told.status == 125, "carol does not wait, and gets none")
        story.types("rita", "container retire --force filler")
        told = waiting.result()
    story.says("bob", line, told)
    story.check(told.status == 0 and "came free" in told.out, "bob's container runs, without a key being pressed")
    story.quietly("bob", "container", "retire", "--force", "night")


def without_a_container(story: Story) -> None:
    story.scene("carol needs no container: a program in a scope of its own, with a GPU of its own")
    look = "cat /proc/self/cgroup | tail -1; echo GPU $DS01_GPU; (: </dev/nvidia3) 2>&1; exit 7"
    told = story.types("carol", f"ds01 run --gpus 1 -- sh -c '{look}'")
    story.check("ds01-student-carol.slice/ds01-l" in told.out, "it runs in her slice")
    story.check("not permitted" in told.out, "and may open no GPU but the one that it has")
    story.check(told.status == 7, "its exit status is her program's")
    story.types("ada", "ds01 explain gpu 2x2g.10gb")


def what_ada_sees(story: Story) -> None:
    story.scene("ada sees it all with the tools she knows")
    told = story.types("ada", "systemd-cgls --no-pager /ds01.slice | cut -c1-100", most=16)
    story.check("ds01-student-alice.slice" in told.out, "a slice per user, a scope per container")
    told = story.types("ada", "systemctl --no-pager status ds01-gpu-allocator | head -12")
    story.check("active (running)" in told.out, "daemons that systemd runs and watches")
    told = story.types("ada", "sudo -n journalctl --no-pager -x -n 60 --namespace=ds01 DS01_EVENT=gpu.denied", most=10)
    story.check(
        "DS01" in told.text or "gpu" in told.text.lower(), "every decision in the journal, with its explanation"
    )
    story.types("ada", "ds01 status", most=12)


def half_the_memory(story: Story) -> None:
    story.scene("ada halves the students' memory while alice trains")
    look = "systemctl show -P MemoryMax ds01-student-alice.slice | numfmt --to=iec-i --format=%.2f --round=nearest"
    running = "docker inspect -f 'process {{.State.Pid}}, started {{.State.StartedAt}}' train._.1001"
    before, process = story.types("ada", look).out, story.types("alice", running).out
    story.types("ada", f"sudo sed -i 's/memory_max: 25% of/memory_max: 12,5% of/' {POLICY}")
    told = story.types("ada", "ds01 policy check")
    story.check(told.status == 78 and "12,5%" in told.out, "a slip of the pen is named with its line")
    told = story.types("ada", "systemctl status ds01-limits-sync | grep -o 'Status:.*'")
    story.check("REJECTED" in told.out and story.quietly("ada", "sh", "-c", look).out == before, "it changed nothing")
    told = story.types("ada", f"sed 's/12,5%/12.5%/' {POLICY} >new.yaml; ds01 policy diff new.yaml", most=16)
    story.check("train" in told.out, "what would change, and for which container, before it does")
    story.types("ada", f"sudo cp new.yaml {POLICY}")
    story.check(comes(lambda: story.quietly("ada", "sh", "-c", look).out != before), "saved is in force")
    story.types("ada", look)
    story.check(story.types("alice", running).out == process, "her container runs on, it is the same process")
    told = story.types("ada", "sudo journalctl --namespace=ds01 -o cat -n 1 DS01_EVENT=limits.applied DS01_USER=alice")
    story.check("before: MemoryMax" in told.out, "the journal has it, old and new")


def daemons_die(story: Story) -> None:
    story.scene("Allocator and shim are killed twenty times in ten seconds, then dockerd")
    before = world(story)
    storm = (
        "for i in $(seq 20); do systemctl kill -s KILL ds01-gpu-allocator ds01-docker-shim 2>/dev/null; sleep 0.5; done"
    )
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(story.quietly, "root", "sh", "-c", storm)
        told = story.types("bob", f"for i in 1 2 3 4 5 6 7 8; do {ASK} && echo; sleep 1; done", most=3)
        killing.result()
    story.check(told.out.split() == ["OK"] * 8, "clients that come meanwhile are served")
    story.check(settled(story) == before, "all containers run on, every lease is where it was, none is new")
    story.types("root", "systemctl kill -s KILL docker.service; sleep 3; systemctl is-active docker.service")
    story.check(settled(story) == before, "dockerd died too: the containers did not notice")


def the_plug_is_pulled(story: Story) -> None:
    story.scene("The plug is pulled")
    told = story.types("carol", "docker run -d --restart always --name keep --gpus 1 busybox sleep infinity", most=1)
    story.check(told.status == 0, "carol's container shall come back by itself")
    before = leases(story)
    story.quietly("root", "sync", "-f", "/var/lib/docker")  # what dockerd writes by itself within half a minute
    story.host("kill", "--power")
    story.check(leases(story) == before, "the host is back: the same leases on the same units")
    told = story.types("carol", "docker exec keep ls /dev/nvidia-caps")
    story.check(told.status == 0 and len(told.out.split()) == 2, "carol's container runs, with today's device nodes")
    slices = story.types("root", "systemctl show ds01-student-carol.slice -p MemoryMax -p TasksMax").out
    story.check("infinity" not in slices, "in a slice that had its limits before it started")


def another_unit(story: Story) -> None:
    story.scene("alice stops; bob takes her unit; alice starts again")
    story.quietly("alice", "docker", "start", "train._.1001")
    mine = unit_of(story, "alice")
    story.types("alice", "docker stop -t 0 train._.1001")
    wait_until_free(story, mine)
    fillers = []
    while unit_holder(story, mine) is None and len(fillers) < 8:
        user = ("bob", "rita")[len(fillers) > 1]
        name = f"grab{len(fillers)}"
        fillers.append((user, name))
        story.quietly(user, "docker", "run", "-d", "--name", name, "--gpus", "1", "busybox", "sleep", "infinity")
    story.check(unit_holder(story, mine) is not None, f"her unit {mine} is somebody else's now")
    told = story.types("alice", "docker start train._.1001")
    story.check(told.status == 0, "her container starts all the same")
    story.check(unit_of(story, "alice") != mine, f"on another unit: {unit_of(story, 'alice')}")
    for user, name in fillers:
        story.quietly(user, "docker", "rm", "-f", name)


def retired(story: Story) -> None:
    story.scene("alice is done")
    mine = unit_of(story, "alice")
    told = story.types("alice", "container retire train")
    story.check(told.status == 0 and mine in told.out, f"unit {mine} is named")
    story.check(unit_holder(story, mine) is None, "and free at once")
    story.types("alice", "ds01 status", most=12)


def units(story: Story) -> list[dict[str, object]]:
    """Every unit as ada sees it."""
    told = story.quietly("ada", "ds01", "status", "--json")
    return list(json.loads(told.out)["units"]) if told.status == 0 else []


def places(story: Story) -> object:
    """The queue."""
    return json.loads(story.quietly("bob", "ds01", "queue", "--json").out or "[]")


def leases(story: Story) -> set[tuple[object, object]]:
    """Which unit belongs to which lease."""
    return {(unit["name"], unit["lease"]) for unit in units(story) if unit["lease"]}


def world(story: Story) -> tuple[object, ...]:
    """Leases, and the processes of all containers."""
    running = story.quietly(
        "ada", "sh", "-c", "docker ps -q --no-trunc | sort | xargs docker inspect -f '{{.State.Pid}}'"
    )
    return leases(story), running.out


def settled(story: Story) -> tuple[object, ...]:
    """The world once everybody answers again."""
    story.quietly("root", "systemctl", "start", "ds01.target", "docker.service")
    return world(story)


def unit_of(story: Story, user: str) -> str:
    """The unit that `user` holds."""
    told = json.loads(story.quietly(user, "ds01", "status", "--json").out)
    return next((unit["name"] for unit in told["units"] if unit["mine"]), "none")


def unit_holder(story: Story, name: str) -> object:
    """Who holds unit `name`; None if nobody does."""
    return next((unit["user"] or None for unit in units(story) if unit["name"] == name), None)


def hold_of(story: Story) -> float:
    """How long alice's GPU is kept for her after a stop, in seconds, by the policy in force."""
    values = json.loads(story.quietly("alice", "ds01", "policy", "show", "--json").out)["values"]
    return float(values["gpu_hold_after_stop"]["value"])


def comes(holds: Callable[[], object]) -> bool:
    """Whether something holds within some seconds: what asks takes its time."""
    return any(holds() for _ in range(60))


def wait_until_free(story: Story, name: str) -> None:
    """Wait for the end of the hold."""
    story.check(comes(lambda: unit_holder(story, name) is None), f"unit {name} is free after the hold")


def say_how_to_log_in(name: str) -> None:
    """For --keep."""
    print(f"\nThe host '{name}' is still up. Log in as anybody:")
    for line in PEOPLE.splitlines():
        user, _, groups = line.partition(":")
        print(f"    tests/host/testhost shell --name {name} --user {user:8}  # {groups}")
    print(f"    tests/host/testhost shell --name {name}                  # root")
    print(f"Take it down:  tests/host/testhost down --name {name}")


if __name__ == "__main__":
    sys.exit(main())

"""Runs on the host in one user's session: plays many clients at once, each with short actions, dying at random.

Arguments: seconds, clients, seed. Prints JSON: how often each action was done, and which did not end in time. Only a
few clients at a time are processes; the others wait at sockets, as most people do.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

MOST_PROCESSES = 3
"""At a time and user: two cores are enough for the whole storm."""

BOUND_S = 100.0
"""`container deploy --wait=10s` asks again for 120 s beyond its wait while what must answer is away."""

NONE_IN_TIME = "(it did not end in time)"


class Clients:
    """All clients of one user."""

    def __init__(self, seed: int, end: float) -> None:
        self.seed = seed
        self.end = end
        self.done: Counter[str] = Counter()
        self.hung: list[str] = []
        self.processes = threading.Semaphore(MOST_PROCESSES)

    def live(self, number: int) -> None:
        """One client."""
        dice = random.Random(self.seed * 1000 + number)
        name = f"s{number}"
        time.sleep(dice.uniform(0, 3))
        while time.monotonic() < self.end:
            action = dice.choice(
                (self.runs, self.lives, self.deploys, self.computes, self.waits, self.waits, self.waits)
            )
            action(name, dice)
            self.done[action.__name__] += 1
            time.sleep(dice.uniform(0, 1))
        self.command(dice, "docker", "rm", "-f", name, dies=0)

    def command(self, dice: random.Random, *argv: str, dies: float = 0.4) -> None:
        """A process, killed early with probability `dies`."""
        with self.processes:
            if time.monotonic() > self.end and dies:
                return
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet)
            patience_s = dice.uniform(0, 2) if dice.random() < dies else BOUND_S
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                if patience_s == BOUND_S:
                    self.hung.append(" ".join(argv))

    def runs(self, name: str, dice: random.Random) -> None:
        self.command(dice, "docker", "run", "--rm", "--gpus", "1", "busybox", "sleep", f"{dice.uniform(0, 2):.1f}")

    def lives(self, name: str, dice: random.Random) -> None:
        self.command(dice, "docker", "run", "-d", "--name", name, "--gpus", "1", "busybox", "sleep", "30")
        for words in dice.sample((("stop", "-t", "0"), ("start",), ("restart", "-t", "0"), ("kill",)), 3):
            self.command(dice, "docker", *words, name, dies=0.2)
        self.command(dice, "docker", "rm", "-f", name, dies=0.2)

    def deploys(self, name: str, dice: random.Random) -> None:
        wait = dice.choice(([], ["--wait=10s"]))
        self.command(dice, "container", "deploy", f"d{name}", "--image", "busybox", "-d", *wait, dies=0.2)
        self.command(dice, "container", "retire", "--force", f"d{name}", dies=0)

    def computes(self, name: str, dice: random.Random) -> None:
        wait = dice.choice(([], ["--wait=10s"]))
        self.command(dice, "ds01", "run", "--gpus", "1", *wait, "--", "sleep", f"{dice.uniform(0, 3):.1f}")

    def waits(self, name: str, dice: random.Random) -> None:
        """Create a container that waits for its turn, without a process of its own; hang up at random."""
        patience_s = dice.uniform(0, 6) if dice.random() < 0.5 else BOUND_S
        body = {
            "Image": "busybox",
            "Cmd": ["sleep", "1"],
            "Labels": {"ds01.wait": "15s"},
            "HostConfig": {"DeviceRequests": [{"Count": 1, "Capabilities": [["gpu"]]}], "AutoRemove": True},
        }
        text = self.request("POST", f"/v1.45/containers/create?name=w{name}", json.dumps(body), patience_s)
        if text == NONE_IN_TIME and patience_s == BOUND_S:
            self.hung.append("create with ds01.wait")
        self.request("POST", f"/v1.45/containers/w{name}/start", "", BOUND_S)
        if dice.random() < 0.7:
            self.request("DELETE", f"/v1.45/containers/w{name}?force=1", "", BOUND_S)

    def request(self, method: str, path: str, body: str, patience_s: float) -> str:
        """The whole answer, or what there was of it before the daemon died."""
        head = f"{method} {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\n"
        received = b""
        end = time.monotonic() + patience_s
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect("/run/docker.sock")
                connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                while True:
                    connection.settimeout(max(0.01, end - time.monotonic()))
                    part = connection.recv(65536)
                    if not part:
                        return received.decode(errors="replace")
                    received += part
            except TimeoutError:
                return NONE_IN_TIME
            except OSError:
                return ""


def main(seconds: str, clients: str, seed: str) -> None:
    """Until everybody has come to an end."""
    ours = Clients(int(seed), time.monotonic() + float(seconds))
    threads = [threading.Thread(target=ours.live, args=(number,)) for number in range(int(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump({"done": ours.done, "hung": ours.hung}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])

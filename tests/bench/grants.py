"""Runs on the host as root, with the services' own Python: how fast the allocator grants and releases.

Prints rows as JSON. What a release asks of the engine is asked here as well, bare, in turns with it, and taken off: the
rows are the allocator's own share, with the durable writes, the device entries and the journal.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from asking import ENGINE, Client, Row, become_the_shim, granted, row, timed

CLIENTS, UNITS, ROUNDS, PAIRS, PAST = 16, 48, 15, 400, 1000
SCRATCH = Path("/var/lib/ds01/bench")
FIND = (
    "GET /v1.45/containers/json?all=1&filters=%7B%22label%22%3A+%5B%22ds01.lease%3Dl0000000000000000%22%5D%7D HTTP/1.1"
    "\r\nHost: d\r\nConnection: close\r\n\r\n"
)


def ask_engine() -> None:
    """What a release asks the engine."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(ENGINE)
        connection.sendall(FIND.encode())
        while connection.recv(65536):
            pass


def two_syncs() -> None:
    """Two bare appends with fdatasync on the ledger's file system: the least a durable grant and release can cost."""
    with SCRATCH.open("ab") as file:
        for _ in range(2):
            file.write(b"x" * 200)
            file.flush()
            os.fdatasync(file.fileno())


def pairs() -> dict[float, tuple[float, float]]:
    """Grant and release without the engine's share, and two bare syncs: seconds of both, by percentile."""
    client, own, bare = Client(), [], []
    for _ in range(PAIRS):
        own.append(timed(lambda: client.release(client.lease())) - timed(ask_engine))
        bare.append(timed(two_syncs))
    return {part: (sorted(own)[int(PAIRS * part)], sorted(bare)[int(PAIRS * part)]) for part in (0.5, 0.99)}


def grants_per_s(count: int) -> float:
    """The median over rounds: clients are granted all units, each one after the other. Releases don't count."""
    clients = [Client() for _ in range(count)]
    rates = []
    for _ in range(ROUNDS):
        leases: list[str] = []
        taken_s = timed(lambda found=leases: found.extend(grant_all(clients, UNITS // count)))  # type: ignore[misc]
        rates.append(UNITS / taken_s)
        for lease in leases:
            clients[0].release(lease)
    for client in clients:
        client.socket.close()
    return statistics.median(rates)


def grant_all(clients: list[Client], each: int) -> Iterator[str]:
    """As many leases for each client, all clients at once."""
    left = dict.fromkeys(clients, each)
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.ask_for_one()
        while any(left.values()):
            for key, _ in selector.select():
                answer = key.data.answer()
                if answer is not None:
                    yield granted(answer)
                    left[key.data] -= 1
                    if left[key.data]:
                        key.data.ask_for_one()


def main() -> None:
    """All rows."""
    become_the_shim()
    pairs()  # both warm up
    before, rate_before, one = pairs(), grants_per_s(CLIENTS), grants_per_s(1)
    client = Client()  # the allocator closes those that say nothing for 10 s
    for _ in range(PAST):
        client.release(client.lease())
    after, rate_after = pairs(), grants_per_s(CLIENTS)
    rows: list[Row] = [
        row(f"grant and release, p{part * 100:.0f}", own * 1000, "ms", "two fdatasync appends", own / bare)
        for part, (own, bare) in before.items()
    ]
    # The disk is another from minute to minute: what is compared is what each is of the bare syncs beside it.
    rows += [
        row(f"grant and release, p{part * 100:.0f}, {PAST} leases in the ledger", own * 1000, "ms", "an empty ledger",
            own / bare / (before[part][0] / before[part][1]))
        for part, (own, bare) in after.items()
    ]  # fmt: skip
    rows += [
        row(f"grants with {CLIENTS} clients", rate_before, "/s", "one client", rate_before / one),
        row(f"grants with {CLIENTS} clients, {PAST} leases in the ledger", rate_after, "/s", "an empty ledger",
            rate_after / rate_before),
    ]  # fmt: skip
    SCRATCH.unlink()
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()

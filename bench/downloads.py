"""Labelers at work while twenty slow clients download an export, beside labelers alone, in turns.

python -m bench downloads

Each client reads some 128 KiB a second through a small buffer, so that its export waits for it nearly all the time. The
rush of the first seconds, in which the server fills its sockets' buffers of some MiB each, is measured apart: in every
second round labelers work from the first byte on.
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

from bench import export, raw
from bench.desk import database, make_project, sign_in, web_process
from bench.labelers import Place, load, percentiles

CLIENTS, LABELERS, THINK_SECONDS, ROUNDS = 20, 20, 2.0, 8
RUSH_SECONDS = 5.0
RANKINGS, TASKS, OVERLAP, K = 20_000, 10_000, 3, 4
PIECE, PAUSE = 32 << 10, 0.25


class SlowClient(Thread):
    """Downloads an export slowly until it is told to stop."""

    def __init__(self, address: str, path: str, token: str, over: Event) -> None:
        super().__init__(daemon=True)
        self._address, self._path, self._token, self._over = urlsplit(address), path, token, over
        self.status, self.size = 0, 0

    def run(self) -> None:
        """Read a piece, pause, and so on."""
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
            connection.connect((self._address.hostname, self._address.port))
            connection.sendall(
                f"GET {self._path} HTTP/1.1\r\nHost: {self._address.netloc}\r\n"
                f"Authorization: Bearer {self._token}\r\nConnection: close\r\n\r\n".encode()
            )
            while not self._over.wait(PAUSE) and (piece := connection.recv(PIECE)):
                if not self.status:
                    self.status = int(piece.split(b" ", 2)[1])
                self.size += len(piece)


@contextmanager
def downloading(address: str, path: str, token: str) -> Iterator[list[SlowClient]]:
    """Let all clients download meanwhile."""
    over = Event()
    clients = [SlowClient(address, path, token, over) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 60
    try:
        while not all(client.status for client in clients):
            if time.monotonic() > deadline:
                raise RuntimeError("Not every download was answered within a minute.")
            time.sleep(0.1)
        yield clients
    finally:
        over.set()
        for client in clients:
            client.join()


def main() -> None:
    """Measure on a fresh, durable PostgreSQL and print each round, then the ratio of the medians."""
    with database({"max_connections": "120"}) as (server, var), tempfile.TemporaryDirectory() as folder:
        source, token = export.seed(RANKINGS)
        project_id = make_project("Desk", TASKS, overlap=OVERLAP, k=K)
        labelers = sign_in(LABELERS)
        raw.open_sessions(labelers)
        path = f"/api/v1/projects/{source}/export"
        found: dict[str, list[float]] = {"alone": [], "beside downloads": [], "from their first byte on": []}
        with web_process(server, var, 1) as address:
            place = Place(server, address, project_id, "", Path(folder))
            load(place, labelers, THINK_SECONDS)  # what is slow the first time is not measured
            for number in range(ROUNDS):
                kind = "from their first byte on" if number % 2 else "beside downloads"
                seen = load(place, labelers, THINK_SECONDS)
                found["alone"].append(percentiles(seen["milliseconds"])[1])
                with downloading(address, path, token) as clients:
                    time.sleep(0 if number % 2 else RUSH_SECONDS)
                    began = sum(client.size for client in clients)
                    beside = load(place, labelers, THINK_SECONDS)
                    sent = sum(client.size for client in clients) - began
                found[kind].append(percentiles(beside["milliseconds"])[1])
                served = sum(client.status == 200 for client in clients)
                print(
                    f"downloads: labelers {LABELERS}, p99 {found['alone'][-1]:.0f} ms alone, "
                    f"{found[kind][-1]:.0f} ms {kind}, {served} of {CLIENTS} served "
                    f"({sent / beside['seconds'] / (1 << 20):.1f} MiB/s together); errors "
                    f"{len(seen['errors']) + len(beside['errors'])}",
                    flush=True,
                )
        alone, steady, rush = (statistics.median(times) for times in found.values())
        print(
            f"downloads: ratio of the medians of p99 {steady / alone:.2f} (aim at most 1.5), "
            f"{rush / alone:.2f} from their first byte on"
        )

"""A training on a Ray cluster, behind the interface of a child on this machine: start, poll, signal, collect.

Ray finds the machines, holds their GPUs together (a placement group) and starts an actor on each; everything else is
ours, as on one machine. The run directory is sent to the actors, and the first one's comes back piece by piece while it
works, so the supervisor reads metrics and registers checkpoints as always. The actors belong to this process: when it
dies, Ray ends them.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from pathlib import Path
from threading import Event
from typing import Any

from app.worker.errand import Errand
from app.worker.mirror import PIECE_BYTES, Mirror, to_send
from app.worker.remote_trainer import RemoteTrainer

LOOK_SECONDS = 0.5
CONNECT_SECONDS = 60.0
PLACE_SECONDS = 600.0
CALL_SECONDS = 120.0
LOST = -9
"""The status of a trainer whose machine or actor is gone, as if it had been killed."""


class ClusterError(Exception):
    """The cluster took the run and could not start it."""


class ClusterAwayError(ClusterError):
    """The cluster does not answer or has no room now: nothing speaks against the run."""


class RayChild:
    """A started training of `processes` processes, one GPU each where `gpu` is set.

    Raises `ClusterAwayError` when the cluster does not answer, has no room in time, or nobody wants the start any more
    (`called_off`), else `ClusterError` when it does not start the run.
    """

    def __init__(
        self,
        address: str,
        trainer: tuple[str, ...],
        method: str,
        run_dir: Path,
        processes: int,
        called_off: Event,
        *,
        gpu: bool,
    ) -> None:
        self._ray = _connect(address)
        self._run_dir = run_dir
        self._called_off = called_off
        self._group: Any = None
        self._actors: list[Any] = []
        self._asked, self._killed, self._over = Event(), Event(), Event()
        self._code: int | None = None
        try:
            self._place(processes, gpu=gpu)
            self._send()
            self._start(trainer, method)
            self._still_wanted()
        except (self._ray.exceptions.RayError, TimeoutError) as error:
            self._release()
            raise ClusterError(f"The Ray cluster at {address} did not start the run: {error}") from error
        except BaseException:
            self._release()
            raise
        self._errand = Errand(self._follow)

    @property
    def pid(self) -> None:
        """None: the processes are elsewhere."""
        return

    @property
    def code(self) -> int | None:
        """Exit status once the training has ended and its results are here."""
        return self._code

    def wait(self, seconds: float) -> int | None:
        """Wait at most so long for the end and return the exit status, None if it still runs."""
        self._over.wait(seconds)
        return self._code

    def ask_to_stop(self) -> None:
        """Let SIGTERM be sent to each process: the trainer saves a checkpoint and exits with 3."""
        self._asked.set()

    def kill(self) -> None:
        """End the actors, and their trainers with them."""
        self._killed.set()
        self._over.wait(CALL_SECONDS)
        self._release()

    def _place(self, processes: int, *, gpu: bool) -> None:
        placement = importlib.import_module("ray.util.placement_group")
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        bundle = {"CPU": 1, "GPU": 1} if gpu else {"CPU": 1}
        self._group = placement.placement_group([dict(bundle) for _ in range(processes)], strategy="PACK")
        self._wait_for_room(f"{processes} {'GPUs' if gpu else 'processes'}")
        remote = self._ray.remote(RemoteTrainer)
        self._actors = [
            remote.options(
                num_cpus=1,
                num_gpus=1 if gpu else 0,
                max_restarts=0,
                scheduling_strategy=strategies.PlacementGroupSchedulingStrategy(self._group, index),
            ).remote()
            for index in range(processes)
        ]

    def _wait_for_room(self, room: str) -> None:
        ready = self._group.ready()
        deadline = time.monotonic() + PLACE_SECONDS
        while not self._ray.wait([ready], timeout=LOOK_SECONDS)[0]:
            self._still_wanted()
            if time.monotonic() > deadline:
                raise ClusterAwayError(f"The Ray cluster has had no room for {room} in {PLACE_SECONDS / 60:g} minutes.")

    def _still_wanted(self) -> None:
        if self._called_off.is_set():
            raise ClusterAwayError("The start on the Ray cluster was called off.")

    def _send(self) -> None:
        """Send the inputs to every process; a piece at a time, so that no large file is held whole."""
        for name, path in to_send(self._run_dir):
            with path.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    held = self._ray.put(piece)
                    self._all([actor.put.remote(name, held) for actor in self._actors])

    def _start(self, trainer: tuple[str, ...], method: str) -> None:
        host, port = self._call(self._actors[0].meeting_place.remote())
        size = len(self._actors)
        calls = []
        for rank, actor in enumerate(self._actors):
            own = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(size)}
            environment = {**own, "MASTER_ADDR": host, "MASTER_PORT": str(port)} if size > 1 else {}
            calls.append(actor.start.remote(trainer, method, environment))
        self._all(calls)

    def _follow(self) -> None:
        """Bring the first process's folder here until all have ended. A lost actor ends the training as a kill does."""
        first = self._actors[0]
        mirror = Mirror(self._run_dir, lambda name, offset, size: self._call(first.read.remote(name, offset, size)))
        told = False
        code = LOST
        try:
            while not self._killed.is_set():
                if self._asked.is_set() and not told:
                    self._all([actor.ask_to_stop.remote() for actor in self._actors])
                    told = True
                looks = self._all([actor.look.remote() for actor in self._actors])
                codes = [status for status, _ in looks]
                failed = next((status for status in codes if status not in (None, 0)), None)
                if codes[0] is not None or failed is not None:
                    # One that failed leaves the others waiting for it; the first one's word is the run's if it has one.
                    mirror.finish(looks[0][1])
                    code = codes[0] if codes[0] is not None else failed or 0
                    break
                with contextlib.suppress(FileNotFoundError):  # the trainer tidies its checkpoints under our eyes
                    mirror.follow(looks[0][1])
                self._killed.wait(LOOK_SECONDS)
        except (self._ray.exceptions.RayError, TimeoutError):
            code = LOST
        finally:
            self._code = code
            self._over.set()

    def _all(self, calls: list[Any]) -> list[Any]:
        return [self._call(call) for call in calls]

    def _call(self, reference: Any, seconds: float = CALL_SECONDS) -> Any:
        return self._ray.get(reference, timeout=seconds)

    def _release(self) -> None:
        for actor in self._actors:
            # Where it is gone already, its trainer is too.
            with contextlib.suppress(self._ray.exceptions.RayError, TimeoutError):
                self._call(actor.end.remote(), 10)
            self._ray.kill(actor, no_restart=True)
        self._actors = []
        if self._group is not None:
            importlib.import_module("ray.util.placement_group").remove_placement_group(self._group)
            self._group = None


_connecting: Errand[Any] | None = None
"""The connection that is being made: Ray has one for a process, and it cannot be called off, so the next waits."""


def _connect(address: str) -> Any:
    """Return the ray module, connected. It is imported here alone, because it is an optional part."""
    global _connecting  # noqa: PLW0603 # see there
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        message = "PLACKETT_RAY_ADDRESS is set, but Ray is not installed: pip install 'plackett[ray]'."
        raise ClusterError(message) from error
    if not ray.is_initialized():
        _connecting = _connecting or Errand(
            lambda: ray.init(address=address, log_to_driver=False, configure_logging=False)
        )
        _connecting.join(CONNECT_SECONDS)
        if _connecting.is_alive():
            raise ClusterAwayError(f"The Ray cluster at {address} has not answered in {CONNECT_SECONDS:g} s.")
        made, _connecting = _connecting, None
        try:
            made.settle()
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterAwayError(f"The Ray cluster at {address} does not answer: {error}") from error
    return ray

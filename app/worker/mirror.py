"""A run directory as a copy of one elsewhere: fetched in pieces, whole folders at once, so that the rest of the
supervisor sees what it would see beside a trainer on this machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from app.worker.child import LOG_FILE
from app.worker.remote_trainer import RemoteFile

PIECE_BYTES = 8 << 20
GROWING = ("metrics.jsonl", LOG_FILE)
INPUTS = ("run.json", "data", "models")
MANIFEST = "manifest.json"

Read = Callable[[str, int, int], bytes]


def to_send(folder: Path) -> Iterable[tuple[str, Path]]:
    """Yield what the far end needs, by name: the inputs, the metrics so far, and the newest checkpoint."""
    checkpoints = sorted(path.parent for path in folder.glob("checkpoints/step_*/manifest.json"))
    wanted = [*(folder / name for name in INPUTS), folder / GROWING[0], *checkpoints[-1:]]
    for path in wanted:
        # The models are links into the cache, which `rglob` would not follow.
        for file in [path] if path.is_file() else _files_in(path):
            yield file.relative_to(folder).as_posix(), file


def _files_in(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        found += _files_in(path) if path.is_dir() else [path]
    return found


class Mirror:
    """Keeps a run directory like the far one. `read` returns a piece of a far file."""

    def __init__(self, folder: Path, read: Read) -> None:
        self._folder = folder
        self._read = read
        self._inodes: dict[str, int] = {}

    def follow(self, files: Iterable[RemoteFile]) -> None:
        """Bring in what a run shows while it works: the files that grow, and checkpoints that are complete."""
        listed = {file.name: file for file in files}
        for name in GROWING:
            if name in listed:
                self._grow(listed[name])
        complete = {name.rpartition("/")[0] for name in listed if _is_manifest_of(name, "checkpoints")}
        for far in sorted(complete):
            self._fetch_folder(far, listed)
        for path in self._folder.glob("checkpoints/step_*"):
            if f"checkpoints/{path.name}" not in complete:
                shutil.rmtree(path)

    def finish(self, files: Iterable[RemoteFile]) -> None:
        """Bring in everything that a trainer leaves when it ends."""
        listed = {file.name: file for file in files}
        self.follow(listed.values())
        if f"final/{MANIFEST}" in listed:
            self._fetch_folder("final", listed)
        for name, file in listed.items():
            if PurePosixPath(name).parts[0] not in (*INPUTS, *GROWING, "checkpoints", "final"):
                self._fetch_file(file, self._folder / name)

    def _grow(self, file: RemoteFile) -> None:
        path = self._folder / file.name
        if self._inodes.get(file.name) != file.inode:
            self._fetch_file(file, path)  # new, or replaced when a resumed trainer cut it back
            self._inodes[file.name] = file.inode
            return
        with path.open("ab") as target:
            while (offset := target.tell()) < file.size:
                piece = self._read(file.name, offset, min(PIECE_BYTES, file.size - offset))
                if not piece:
                    return
                target.write(piece)

    def _fetch_folder(self, far: str, listed: dict[str, RemoteFile]) -> None:
        target, manifest = self._folder / far, listed[f"{far}/{MANIFEST}"]
        if self._inodes.get(manifest.name) == manifest.inode or self._is_what_we_sent(manifest):
            return
        aside = target.with_name(f".{target.name}.fetched")
        shutil.rmtree(aside, ignore_errors=True)
        for name, file in listed.items():
            if name.startswith(f"{far}/"):
                self._fetch_file(file, aside / name.removeprefix(f"{far}/"))
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        self._inodes[manifest.name] = manifest.inode

    def _is_what_we_sent(self, manifest: RemoteFile) -> bool:
        """Whether the folder here has the far one's manifest, as the checkpoint has from which the trainer resumed."""
        here = self._folder / manifest.name
        if here.is_file() and here.read_bytes() == self._read(manifest.name, 0, manifest.size):
            self._inodes[manifest.name] = manifest.inode
            return True
        return False

    def _fetch_file(self, file: RemoteFile, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.fetched")
        with aside.open("wb") as target:
            while target.tell() < file.size:
                piece = self._read(file.name, target.tell(), min(PIECE_BYTES, file.size - target.tell()))
                if not piece:
                    break
                target.write(piece)
        aside.replace(path)


def _is_manifest_of(name: str, top: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 3 and parts[0] == top and parts[1].startswith("step_") and parts[2] == MANIFEST

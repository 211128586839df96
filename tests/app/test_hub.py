"""Data sets of the hub by name, from a server on this machine that speaks the two addresses of it that are used."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_builders import make_project, make_user
from sqlalchemy import func, select

from app.db import transaction
from app.errors import InvalidInputError, NotFoundError, PlackettError
from app.models import Demonstration, Import, Ranking
from app.services.data import hub

PAIRS = [{"prompt": f"Is it {number}?", "chosen": "Yes.", "rejected": "No."} for number in range(3)]


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(rows: list[Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@dataclass
class FakeHub:
    """Data sets by name, each with its files; `asked` are the requests as path and token, `sizes` are lies."""

    url: str = ""
    sets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that lists two files a page and sends who downloads to another name of this machine."""
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.asked.append((self.path, self.headers.get("authorization")))
            parts = urlsplit(self.path)
            words = [unquote(word) for word in parts.path.split("/")[1:]]
            if words[0] == "content":
                return self._answer(200, fake.sets["/".join(words[1:3])]["/".join(words[3:])])
            name = "/".join(words[2:4] if words[0] == "api" else words[1:3])
            if name == "owner/closed":
                return self._answer(403, b"")
            files = fake.sets.get(name)
            if files is None:
                return self._answer(404, b"")
            if words[0] == "datasets":
                port = self.server.server_address[1]
                where = f"http://localhost:{port}/content/{name}/{'/'.join(words[5:])}"
                return self._answer(302, b"", Location=where)
            start = int(parts.query.partition("cursor=")[2] or 0)
            rows: list[dict[str, Any]] = [{"type": "directory", "path": "data", "size": 0}] if not start else []
            rows += [
                {"type": "file", "path": path, "size": fake.sizes.get(path, len(files[path]))}
                for path in list(files)[start : start + 2]
            ]
            more = {}
            if start + 2 < len(files):
                more["Link"] = f'<{fake.url}{parts.path}?recursive=true&cursor={start + 2}>; rel="next"'
            return self._answer(200, json.dumps(rows).encode(), **more)

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the library's name)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", fake.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


def chosen(name: str) -> list[str]:
    with hub.Hub() as connection:
        return [item.path for item in connection.files(hub.parse(name))]


def test_a_part_is_a_file_a_folder_or_a_split(there: FakeHub) -> None:
    there.sets["owner/set"] = dict.fromkeys(
        ("README.md", "data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet", "set.py",
         "data/test-00000-of-00001.parquet", "extra/harmless/train.jsonl.gz"), b"x"
    )  # fmt: skip
    shards = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert chosen("hub:owner/set:train") == [*shards, "extra/harmless/train.jsonl.gz"]
    assert chosen("hub:owner/set:data") == ["data/test-00000-of-00001.parquet", *shards]
    assert chosen("hub:owner/set@main:extra/harmless/train.jsonl.gz") == ["extra/harmless/train.jsonl.gz"]
    with pytest.raises(InvalidInputError, match="has 4 files of data") as caught:
        chosen("hub:owner/set")
    assert "set.py" not in caught.value.details
    with pytest.raises(InvalidInputError, match="no part “trai”"):
        chosen("hub:owner/set:trai")


@pytest.mark.parametrize("name", ["hub:set", "hub:a/b/c", "hub:../x:y", "hub:a/b:../../c", "hub:a b/c", "hub:"])
def test_what_is_no_name_of_a_data_set_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="hub:owner/name"):
        hub.parse(name)


def test_what_cannot_be_had_is_said_in_a_sentence(
    there: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there.sets["owner/script"] = {"script.py": b"import os", "README.md": b""}
    with pytest.raises(NotFoundError, match="is not run"):
        chosen("hub:owner/script")
    with pytest.raises(NotFoundError, match="no data set owner/nothing at main"):
        chosen("hub:owner/nothing")
    with pytest.raises(PlackettError, match="HF_TOKEN"):
        chosen("hub:owner/closed")
    there.sets["owner/large"] = {"train.jsonl": b"{}\n"}
    there.sizes["train.jsonl"] = 5 << 30
    with pytest.raises(InvalidInputError, match="4 GiB"):
        chosen("hub:owner/large")
    there.sizes["train.jsonl"] = 2
    with hub.Hub() as connection:
        (file,) = connection.files(hub.parse("hub:owner/large"))
        with pytest.raises(PlackettError, match="did not come as"):
            connection.download(hub.parse("hub:owner/large"), file, tmp_path / "file")
    assert (tmp_path / "file").stat().st_size <= 2
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PlackettError, match="could not be reached"):
        chosen("hub:owner/script")


def test_a_command_imports_all_shards_or_nothing(there: FakeHub, database: str) -> None:
    with transaction() as session:
        make_project(session, make_user(session))
    demonstration = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
    there.sets["owner/pairs"] = {
        "data/train-00000-of-00002.parquet": parquet(PAIRS[:2]),
        "data/train-00001-of-00002.parquet": parquet(PAIRS[2:]),
        "sft/demonstrations.jsonl.gz": gzip.compress(lines(demonstration)),
        "bad/one.jsonl": lines(PAIRS[0]),
        "bad/two.jsonl": lines({"prompt": "Why?", "chosen": 1, "rejected": "b"}),
    }

    def run(source: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "app.cli",
            "import",
            source,
            "--project",
            "Kindness",
            "--by",
            "admin@example.org",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=dict(os.environ))

    def stored() -> tuple[int, ...]:
        with transaction() as session:
            return tuple(session.scalar(select(func.count()).select_from(of)) or 0 for of in (Ranking, Demonstration))

    assert run("hub:owner/pairs:bad").returncode == 1
    assert stored() == (0, 0)
    done = run("hub:owner/pairs:train")
    assert done.stdout.count("of 1 labeler") == 2, done.stderr
    assert stored() == (3, 0)
    assert "1 demonstration of 1 labeler on 1 new prompt." in run("hub:owner/pairs:sft").stdout
    assert stored() == (3, 1)
    with transaction() as session:
        assert set(session.scalars(select(Import.dataset))) == {"owner/pairs"}
    tokens = {sent for path, sent in there.asked if path.startswith("/content/")}
    assert tokens == {None}, "the token goes to the hub alone"
    assert {sent for path, sent in there.asked if path.startswith("/api/")} == {"Bearer hf_secret"}
    assert run("nowhere.jsonl").stderr == "There is no file nowhere.jsonl.\n"

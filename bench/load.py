"""Simulated labelers over HTTP, in a process of their own: they take a task, rank it, and get the next with the answer.

Run by `bench.labelers` as `python -m bench.load PLAN`, where PLAN is a JSON file; it prints what it saw as JSON. A raw
client over asyncio streams, because a comfortable one would take more of the machine than the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import uvloop

NICE = 5
SUBMIT_ID = re.compile(rb'name="submit_id" value="([0-9a-f-]{36})"')
ASSIGNMENT = re.compile(rb"/work/assignments/([0-9a-f-]{36})")


@dataclass
class Seen:
    """What the labelers saw: milliseconds of each answered submit, the submits acknowledged, and what went wrong."""

    milliseconds: list[float] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    bytes_received: int = 0


class Browser:
    """One kept-open connection that sends forms as our pages do."""

    def __init__(self, address: str, token: str, csrf_token: str) -> None:
        parts = urlsplit(address)
        self._host, self._port = parts.hostname, parts.port
        self._csrf_token = csrf_token
        self._head = f"Host: {parts.netloc}\r\nCookie: plackett_session={token}\r\nOrigin: {address}\r\n"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, fields: dict[str, str], *, htmx: bool) -> tuple[int, bytes, bytes]:
        """Send a form and return status, headers and body."""
        body = urlencode({"csrf_token": self._csrf_token, **fields}).encode()
        extra = "HX-Request: true\r\n" if htmx else ""
        return await self._send(
            f"POST {path} HTTP/1.1\r\n{self._head}{extra}Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    async def get(self, path: str) -> tuple[int, bytes, bytes]:
        """Fetch a page."""
        return await self._send(f"GET {path} HTTP/1.1\r\n{self._head}\r\n".encode())

    async def _send(self, request: bytes) -> tuple[int, bytes, bytes]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 20)
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: (\d+)", head)
        body = await self._reader.readexactly(int(length[1])) if length else b""
        return int(head[9:12]), head, body

    def close(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()


async def labeler(plan: dict[str, Any], number: int, until: float, seen: Seen) -> None:
    """Work until the time is up: at once again, or after a pause of the plan's think time, give or take half of it."""
    chance = random.Random(number)
    browser = Browser(plan["address"], *plan["labelers"][number])
    try:
        status, head, _ = await browser.post(f"/work/{plan['project']}/next", {"kind": "ranking"}, htmx=False)
        found = ASSIGNMENT.search(head)
        if status != 303 or found is None:
            seen.errors.append(f"next: {status}")
            return
        _, _, page = await browser.get(f"/work/assignments/{found[1].decode()}")
        assignment, submit_id = found[1].decode(), SUBMIT_ID.findall(page)[0].decode()
        await asyncio.sleep(chance.uniform(0, plan["think_seconds"]))
        while time.perf_counter() < until:
            ranks = {f"rank_{letter}": str(chance.randint(1, plan["k"])) for letter in "ABCDEFGHI"[: plan["k"]]}
            ranks[f"rank_{chance.choice('ABCDEFGHI'[: plan['k']])}"] = "1"
            started = time.perf_counter()
            status, head, page = await browser.post(
                f"/work/assignments/{assignment}/ranking", {"submit_id": submit_id, **ranks}, htmx=True
            )
            taken = (time.perf_counter() - started) * 1000
            if status != 200:
                seen.errors.append(f"submit: {status}")
                return
            seen.milliseconds.append(taken)
            seen.acknowledged.append(submit_id)
            seen.bytes_received += len(page)
            pushed = ASSIGNMENT.search(head)
            if pushed is None:
                seen.errors.append("no task is left")
                return
            assignment, submit_id = pushed[1].decode(), SUBMIT_ID.findall(page)[0].decode()
            if plan["think_seconds"]:
                await asyncio.sleep(plan["think_seconds"] * chance.uniform(0.5, 1.5))
    except (OSError, asyncio.IncompleteReadError, IndexError) as error:
        seen.errors.append(repr(error))
    finally:
        browser.close()


async def work(plan: dict[str, Any]) -> dict[str, Any]:
    """Let all labelers work side by side and return what they saw."""
    seen = Seen()
    started = time.perf_counter()
    until = started + plan["seconds"]
    await asyncio.gather(*(labeler(plan, number, until, seen) for number in range(len(plan["labelers"]))))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {**vars(seen), "seconds": time.perf_counter() - started, "cpu_seconds": usage.ru_utime + usage.ru_stime}


if __name__ == "__main__":
    os.nice(NICE)
    print(json.dumps(uvloop.run(work(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))))

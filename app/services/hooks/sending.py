"""Sending one message: a POST to the checked address, no redirect, no proxy, and of the answer only its status."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import httpx

from app.errors import InvalidInputError
from app.services.hooks import addresses, signing
from app.services.hooks.addresses import PORTS, NotAllowedError

SECONDS = 10.0
"""The longest time an attempt may take, from the name to the status."""

GONE = 410


@dataclass(frozen=True)
class Message:
    """What is to be sent, where, and the secret that signs it."""

    id: str
    url: str
    secret: str
    body: str


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt. `problem` is a sentence, None when it was taken."""

    status: int | None
    problem: str | None


async def send(message: Message) -> Outcome:
    """Try once. Whatever goes wrong is in the outcome."""
    try:
        async with asyncio.timeout(SECONDS):
            status = await _post(message)
    except TimeoutError:
        return Outcome(None, f"It did not answer within {SECONDS:.0f} seconds.")
    except InvalidInputError as error:
        return Outcome(None, error.message)
    except NotAllowedError as error:
        return Outcome(None, f"It was not called: {error}.")
    except httpx.ConnectError:
        return Outcome(None, "It could not be reached, or its certificate does not hold.")
    except httpx.HTTPError:
        return Outcome(None, "The connection broke off before it had answered.")
    if 200 <= status < 300:
        return Outcome(status, None)
    if 300 <= status < 400:
        return Outcome(status, f"It answered {status} and sends us elsewhere, where we do not go.")
    if status == GONE:
        return Outcome(status, "It answered 410: it wants no more of these.")
    return Outcome(status, f"It answered {status}.")


async def _post(message: Message) -> int:
    addresses.check(message.url)
    parts = urlsplit(message.url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    address = await addresses.resolve(host, port)
    body = message.body.encode()
    request = httpx.Request(
        "POST",
        # The connection goes to the address that was checked; name and certificate stay those of the host.
        httpx.URL(message.url).copy_with(host=address),
        headers={
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "User-Agent": "Plackett-Webhooks/1",
            **signing.headers(message.secret, message.id, int(time.time()), body),
        },
        content=body,
        extensions={"sni_hostname": host, "timeout": httpx.Timeout(SECONDS).as_dict()},
    )
    async with httpx.AsyncHTTPTransport(verify=_tls(), trust_env=False, retries=0) as transport:
        response = await transport.handle_async_request(request)
        await response.aclose()  # what it says beyond its status is not read
        return response.status_code


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Return the one TLS context, so that the machine's certificates are read once."""
    return ssl.create_default_context()

"""Where a webhook may go: only to what the operator has allowed, and only to the address that was checked.

The name is resolved once, every address it has is checked, and the connection goes to one of those. So a name that
answers with another address a moment later leads nowhere else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

from app.errors import InvalidInputError
from app.settings import get_settings

MAX_URL = 500
PORTS = {"http": 80, "https": 443}


class NotAllowedError(Exception):
    """This address may not be called. The text is the end of a sentence that an admin reads."""


def origin(url: str) -> str:
    """Return scheme, host and port of an address; raise `InvalidInputError` when it is none that could be called."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInputError("This is no web address; write it as https://host/path.") from None
    if parts.scheme not in PORTS or not parts.hostname or len(url) > MAX_URL:
        raise InvalidInputError("This is no web address; write it as https://host/path.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise InvalidInputError("An address holds no user, password or fragment.")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise InvalidInputError("An address holds only plain characters; write others as %XX.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or PORTS[parts.scheme]}"


def check(url: str) -> None:
    """Raise `InvalidInputError` unless the operator's settings name the origin of this address."""
    if origin(url) not in {origin(allowed) for allowed in get_settings().webhook_origins}:
        raise InvalidInputError(
            "This server may not be called. The operator names the servers that may, in PLACKETT_WEBHOOK_ORIGINS."
        )


async def resolve(host: str, port: int) -> str:
    """Return an address of the host, once all of them are checked; raise `NotAllowedError` if one will not do."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotAllowedError("its name could not be resolved") from None
    addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
    if not addresses or not all(is_allowed(address) for address in addresses):
        raise NotAllowedError("its name leads to an address inside a private network")
    return addresses[0]


def is_allowed(address: str) -> bool:
    """Return whether this is a public address, or one of the networks that the operator has named."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    meant = mapped or parsed
    networks = get_settings().webhook_networks
    return (meant.is_global and not meant.is_multicast) or any(
        meant in network for network in networks if network.version == meant.version
    )

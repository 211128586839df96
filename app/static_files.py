"""Static files, compressed, which a browser may keep for ever when it asks for the content it names (`?v=HASH`).

Pages are not compressed: they hold the token of their forms beside words of others, and the length of what is
compressed together tells about both (the attack known as BREACH). Static files hold nothing secret, and they are most
of the weight.
"""

from __future__ import annotations

import gzip
import os
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.templating import STATIC, static_hash

FOR_EVER = "public, max-age=31536000, immutable"
ASK_FIRST = "public, no-cache"
SHRINKS = (".css", ".js", ".svg", ".txt", ".md")
"""The kinds of files that compressing makes smaller; pictures and fonts are compressed already."""


class CachedStaticFiles(StaticFiles):
    """`app/static`, with a cache rule that depends on whether the address names the file's hash."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return the file, compressed for a browser that takes it so, or 304, with its cache rule."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        path = Path(full_path)
        if path.suffix in SHRINKS:
            if isinstance(response, FileResponse) and "gzip" in Headers(scope=scope).get("accept-encoding", ""):
                headers = {
                    "Content-Encoding": "gzip",
                    "Last-Modified": response.headers["last-modified"],
                    "ETag": f"W/{response.headers['etag']}",  # weak: the same content, other bytes
                }
                content = _compressed(path, stat_result.st_mtime_ns)
                response = Response(content, media_type=response.media_type, headers=headers)
            response.headers["Vary"] = "Accept-Encoding"
        version = parse_qs(scope["query_string"].decode("latin-1")).get("v")
        name = os.path.relpath(full_path, STATIC)
        response.headers["Cache-Control"] = FOR_EVER if version == [static_hash(name)] else ASK_FIRST
        return response


@lru_cache(maxsize=256)
def _compressed(path: Path, modified_ns: int) -> bytes:
    """Return the compressed content of a file as it was at this time; kept, so that it is made once."""
    del modified_ns
    return gzip.compress(path.read_bytes(), compresslevel=9, mtime=0)

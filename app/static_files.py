"""Static files that a browser may keep for ever when it asks for the content it names (`?v=HASH`)."""

from __future__ import annotations

import os
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.templating import STATIC, static_hash

FOR_EVER = "public, max-age=31536000, immutable"
ASK_FIRST = "public, no-cache"


class CachedStaticFiles(StaticFiles):
    """`app/static`, with a cache rule that depends on whether the address names the file's hash."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return the file, or 304, with its cache rule."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        version = parse_qs(scope["query_string"].decode("latin-1")).get("v")
        name = os.path.relpath(full_path, STATIC)
        response.headers["Cache-Control"] = FOR_EVER if version == [static_hash(name)] else ASK_FIRST
        return response

"""Whatever is sent to the API: no server error, and no answer that its description does not have.

schemathesis makes the requests, fitting and unfitting ones, for each operation and each of four callers. Most of the
ids that it makes up are replaced by ids that exist, so that requests get past the 404s. Run by itself or with
`make test` this makes a few of them; `make api-fuzz` makes 100 of either kind and prints what was answered. With
`PLACKETT_FUZZ_ONLY`, an expression such as `/(runs|models)`, only of the operations whose names hold it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import schemathesis
from api_world import ApiWorld, make_api_world
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from run_builders import make_user
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import update

from app.db import transaction
from app.models import ApiToken
from app.services.accounts.tokens import SCOPES

FULL = int(os.environ.get("PLACKETT_FUZZ_EXAMPLES", "0"))
ONLY = os.environ.get("PLACKETT_FUZZ_ONLY", "")
FEW = 2
CALLERS = ("anonymous", "a labeler's token", "a reading token", "an admin's token")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def token_of(world: ApiWorld, caller: str) -> str | None:
    if caller == "anonymous":
        return None
    if caller == "a reading token":
        return world.token([scope for scope in SCOPES if scope.endswith(":read")])
    token = world.token(list(SCOPES))
    if caller == "a labeler's token":  # its maker is a labeler now, and so it opens nothing
        with transaction() as session:
            labeler = make_user(session, "was-admin@example.org", "labeler")
            public_id = token.split("_")[1]
            session.execute(update(ApiToken).where(ApiToken.public_id == public_id).values(user_id=labeler.id))
    return token


def with_ids(value: Any, ids: Mapping[str, UUID]) -> Any:
    """Return the value with ids that exist wherever a field is named after one."""
    if isinstance(value, dict):
        found = {}
        for name, item in value.items():
            singular = name.removesuffix("s") if name.endswith("_ids") else name
            known = ids.get({"policy_id": "model_id", "reward_model_id": "model_id"}.get(singular, singular))
            if known is None or item is None:
                found[name] = with_ids(item, ids)
            else:
                found[name] = [str(known)] * len(item) if isinstance(item, list) else str(known)
        return found
    return [with_ids(item, ids) for item in value] if isinstance(value, list) else value


@schemathesis.serializer("application/x-ndjson", "application/offset+octet-stream")
def lines(_context: Any, value: Any) -> bytes:
    """A file to import: what was made up, or a line that can be read."""
    return value if isinstance(value, bytes) and value else b'{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n'


def name_what_exists(case: schemathesis.Case, ids: Mapping[str, UUID]) -> None:
    for named in (case.path_parameters, case.query):
        for name in set(named or {}) & set(ids):
            named[name] = str(ids[name])
    case.body = with_ids(case.body, ids)
    case.headers.pop("Authorization", None)


@pytest.mark.timeout(3600 if FULL else 300)
def test_the_api_answers_as_it_says_it_does(
    app: FastAPI, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_api_world(tmp_path)
    tokens = {caller: token_of(world, caller) for caller in CALLERS}
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    answered: dict[str, Counter[int]] = {caller: Counter() for caller in CALLERS}
    failures: dict[str, BaseException] = {}
    operations = [found.ok() for found in schema.get_all_operations()]
    operations = [operation for operation in operations if re.search(ONLY, operation.label)]
    with asgi.get_client(app) as client:

        def send(case: schemathesis.Case, caller: str) -> None:
            # In the client: a header given with the request is taken out where a missing one is to be tried.
            client.headers.pop("Authorization", None)
            if tokens[caller]:
                client.headers["Authorization"] = f"Bearer {tokens[caller]}"
            response = case.call(session=client)
            answered[caller][response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

        for operation in operations:
            for mode in GenerationMode:

                @settings(
                    max_examples=FULL or FEW,
                    deadline=None,
                    database=None,
                    derandomize=not FULL,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(
                    case=operation.as_strategy(generation_mode=mode),
                    ids=st.sampled_from([world.ids, world.ids, world.ids, world.foreign, {}]),
                )
                def check(case: schemathesis.Case, ids: Mapping[str, UUID]) -> None:
                    name_what_exists(case, ids)
                    for caller in CALLERS:
                        send(case, caller)

                try:
                    check()
                except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  (all are tried, then all are shown)
                    failures[f"{operation.label}, {mode.value}"] = error
    if FULL:
        with capsys.disabled():
            for caller, counts in answered.items():
                by_status = ", ".join(f"{count} of {status}" for status, count in sorted(counts.items()))
                print(f"\n{caller}: {len(operations)} operations, {counts.total()} requests: {by_status}")
    assert not failures, "\n\n".join(f"{label}: {error}" for label, error in failures.items())
    assert set(answered["anonymous"]) == set(answered["a labeler's token"]) <= {400, 401, 404, 413, 422}
    assert ONLY or {200, 201, 404, 422} <= set(answered["an admin's token"])

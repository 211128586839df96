"""The page about the API: every operation of the OpenAPI document is on it, and anyone may read it."""

from __future__ import annotations

from typing import Any

import pytest
from browsers import Browser
from hostile_text import became_markup

from app.routes.reference import type_of


def test_every_operation_is_described(client: Browser) -> None:
    document = client.get("/api/openapi.json").json()
    page = client.get("/api/docs").text
    assert became_markup(page) == []
    for path, methods in document["paths"].items():
        assert path.startswith("/api/v1/")
        for details in methods.values():
            assert f'id="{details["operationId"]}"' in page
            assert details["summary"] in page


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer"}, "integer"),
        ({"type": "string", "format": "uuid"}, "uuid"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "list of list of string"),
        ({"$ref": "#/components/schemas/Comparison"}, "Comparison"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or null"),
        ({"enum": ["sft", "dpo"]}, '"sft" | "dpo"'),
        ({"const": 1}, "1"),
        ({}, "any"),
    ],
)
def test_a_type_reads_as_a_few_words(schema: dict[str, Any], words: str) -> None:
    assert type_of(schema) == words

"""The OpenAPI document: each body that is sent or answered has an example, and each example is what it says it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI

from app.main import create_app


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app: FastAPI = create_app()
    found: dict[str, Any] = app.openapi()
    return found


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what each operation takes and answers when all is well, and all that describes refusals."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if not path.startswith("/api/v1/"):
                continue
            label = f"{method.upper()} {path}"
            for media in operation.get("requestBody", {}).get("content", {}).values():
                yield f"{label}, sent", media
            for status, answer in operation["responses"].items():
                for kind, media in answer.get("content", {}).items():
                    if status.startswith("2") and kind == "application/json":
                        yield f"{label}, {status}", media


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema, or of a list that of its items."""
    found = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    items = found.get("properties", {}).get("items", {}).get("items")
    return resolved(document, items) if items and "next" in found["properties"] else found


def test_every_body_has_an_example(document: dict[str, Any]) -> None:
    without = [
        label
        for label, media in bodies(document)
        if "example" not in media and "examples" not in resolved(document, media["schema"])
    ]
    assert without == []
    assert "examples" in document["components"]["schemas"]["Problem"]


def test_every_example_is_as_its_schema_says_and_leaves_nothing_out_that_is_answered(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", []):
            validator = jsonschema_rs.validator_for(
                json.loads(json.dumps(schema | {"components": document["components"]})), validate_formats=True
            )
            problems = [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(example)]
            assert problems == [], name
            if name.endswith("Out"):
                assert set(example) == set(schema["properties"]), name

"""The reference of the REST API, at `/api/docs`: one page made from the OpenAPI document, without any script.

The usual viewers are scripts of a megabyte and more that want inline styles; this page needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from app.templating import render

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_METHODS = ("get", "head", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Parameter:
    """One value in the path or the query."""

    name: str
    where: str
    type: str
    required: bool
    description: str


@dataclass(frozen=True)
class Answer:
    """One status an operation answers with."""

    status: str
    description: str
    content: str


@dataclass(frozen=True)
class Operation:
    """One method on one path."""

    anchor: str
    method: str
    path: str
    summary: str
    description: str
    needs_token: bool
    parameters: tuple[Parameter, ...]
    body: str
    answers: tuple[Answer, ...]
    example: str


@dataclass(frozen=True)
class Model:
    """One JSON object of the API, with its fields as parameters of no place."""

    name: str
    description: str
    fields: tuple[Parameter, ...]


@dataclass(frozen=True)
class ReferencePage:
    """Context of `reference/reference.html`."""

    version: str
    description: str
    operations: tuple[Operation, ...]
    models: tuple[Model, ...]


@router.get("/api/docs")
def show_reference(request: Request) -> Response:
    """Show every operation and object of the API."""
    base = str(request.base_url).rstrip("/")
    return render(request, "reference/reference.html", page_of(request.app.openapi(), base))


def page_of(document: Mapping[str, Any], base: str) -> ReferencePage:
    """Return the page's context for an OpenAPI document and the address it is served at."""
    operations = tuple(
        _operation(method, path, details, base)
        for path, methods in document["paths"].items()
        for method, details in methods.items()
        if method in _METHODS
    )
    schemas = document.get("components", {}).get("schemas", {})
    models = tuple(_model(name, schema) for name, schema in sorted(schemas.items()))
    return ReferencePage(document["info"]["version"], document["info"].get("description", ""), operations, models)


def _operation(method: str, path: str, details: Mapping[str, Any], base: str) -> Operation:
    parameters = tuple(
        Parameter(
            item["name"], item["in"], type_of(item["schema"]), item.get("required", False), item.get("description", "")
        )
        for item in details.get("parameters", [])
        if item["in"] in ("path", "query")
    )
    return Operation(
        anchor=details["operationId"],
        method=method.upper(),
        path=path,
        summary=details.get("summary", ""),
        description=details.get("description", ""),
        needs_token=bool(details.get("security")),
        parameters=parameters,
        body=_content(details.get("requestBody", {})),
        answers=tuple(
            Answer(status, answer.get("description", ""), _content(answer))
            for status, answer in details.get("responses", {}).items()
        ),
        example=_example(method.upper(), base + path, bool(details.get("security")), "requestBody" in details),
    )


def _example(method: str, url: str, needs_token: bool, has_body: bool) -> str:
    parts = ["curl"]
    if method == "HEAD":
        parts.append("-I")  # with -X HEAD curl would wait for a body
    elif method != "GET":
        parts.append(f"-X {method}")
    if needs_token:
        parts.append('-H "Authorization: Bearer $TOKEN"')
    if has_body:
        parts.append("-H 'Content-Type: application/json' -d @body.json")
    return " ".join([*parts, f"'{url}'"])


def _content(part: Mapping[str, Any]) -> str:
    """Return media type and type of a body, such as `application/json: Comparison`."""
    return ", ".join(
        f"{media}: {type_of(content['schema'])}" if content.get("schema") else media
        for media, content in part.get("content", {}).items()
    )


def _model(name: str, schema: Mapping[str, Any]) -> Model:
    required = schema.get("required", [])
    fields = tuple(
        Parameter(field, "", type_of(value), field in required, value.get("description", ""))
        for field, value in schema.get("properties", {}).items()
    )
    return Model(name, schema.get("description", ""), fields)


def type_of(schema: Mapping[str, Any]) -> str:
    """Return a schema as a few words: `integer`, `list of string`, `Comparison or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(type_of(choice) for choice in schema[key]))
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    if "format" in schema:
        return str(schema["format"])
    return str(schema.get("type", "any"))

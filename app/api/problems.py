"""What the API answers when it does not answer as asked: problem+json (RFC 9457)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class FieldProblem(BaseModel):
    """What is wrong with one field of the request."""

    model_config = ConfigDict(extra="forbid")
    field: str
    message: str


class Problem(BaseModel):
    """What went wrong, after RFC 9457. `detail` is a sentence that names the remedy; `errors` are about fields."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Unprocessable Content",
                    "status": 422,
                    "detail": "Something in the request will not do.",
                    "details": [],
                    "errors": [{"field": "k", "message": "Input should be less than or equal to 9"}],
                    "request_id": "0198c0de-0000-7000-8000-000000000091",
                }
            ]
        },
    )
    type: str
    title: str
    status: int
    detail: str
    details: list[str] = []
    errors: list[FieldProblem] = []
    request_id: str


Answers = dict[int | str, dict[str, Any]]


def documented(*answers: tuple[int, str]) -> Answers:
    """Return the answers of these statuses as OpenAPI describes them."""
    schema = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": text, "content": schema} for status, text in answers}


PROBLEMS = documented(
    (400, "The request could not be read."),
    (401, "There is no token, or it is not good."),
    (403, "The token lacks the scope."),
    (404, "There is no such thing, or it belongs to a project that the token may not see."),
    (413, "The body is larger than what is taken at once."),
    (422, "A parameter, or what was sent, will not do; the detail says why."),
    (503, "The database, or a free connection for exports, is not there just now. Try again."),
)
WRITES = PROBLEMS | documented(
    (409, "It collides with what is stored, or with the same request that is still under way."),
    (415, "The body is not application/json."),
)
EDITS = WRITES | documented(
    (412, "It has been changed since; read it again, then send the new ETag as If-Match."),
    (428, "If-Match is missing: send the ETag of what was read."),
)


def described(document: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document with the schemas that every answer above refers to, and with whole examples."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    made = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(made.pop("$defs"))
    schemas["Problem"] = made
    for schema in schemas.values():
        for shown in schema.get("examples", ()):
            _complete(shown, schema, schemas)
    return document


def _complete(shown: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Put the nulls back into an example: FastAPI takes them out of the whole document."""
    for part in (schema, *schema.get("anyOf", ())):
        found = schemas[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if isinstance(shown, list):
            for item in shown:
                _complete(item, found.get("items", {}), schemas)
        elif isinstance(shown, dict):
            for name in found.get("required", ()):
                shown.setdefault(name, None)
            for name, inner in found.get("properties", {}).items():
                _complete(shown.get(name), inner, schemas)

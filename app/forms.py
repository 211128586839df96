"""Forms: what was typed is checked with a Pydantic model and kept, so that a refused form comes back filled in.

A route declares `submitted: Annotated[Submitted[InviteForm], Depends(form_of(InviteForm))]`. If `submitted.data` is
None it renders the same page again with status 422; the macros of `_macros.html` show each sentence by its field.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import Request

from app.errors import InvalidInputError, PlackettError

WHOLE_FORM = ""
"""The key of sentences that belong to no single field."""


class FormModel(BaseModel):
    """Base of all forms: a field that the form does not have is refused, so nobody sets what they were not asked."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


Secret = Annotated[str, StringConstraints(min_length=1, max_length=1024, strip_whitespace=False), Field(repr=False)]
"""A password as typed: its spaces count, and it shows in no repr."""

M = TypeVar("M", bound=FormModel)


@dataclass(frozen=True)
class Submitted(Generic[M]):
    """A form as it came: what was typed, a sentence for each field that will not do, and the data if all will."""

    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    errors: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    data: M | None = None

    def refused(self, error: PlackettError, on: str = WHOLE_FORM) -> Submitted[M]:
        """Return the same form with a service's refusal beside field `on`, or above the form."""
        return replace(self, errors={**self.errors, on: error.message}, data=None)


def blank(**values: str) -> Submitted[Any]:
    """Return a form that nobody has sent yet, with these values filled in."""
    return Submitted(values=values)


def form_of(model: type[M], but: Collection[str] = ()) -> Callable[[Request], Awaitable[Submitted[M]]]:
    """Return a dependency that reads the request's form as `model`. Passwords are never handed back.

    Fields named in `but` are left to another dependency, such as one that stands in the form many times.
    """

    async def read(request: Request) -> Submitted[M]:
        form = await request.form()
        sent = {
            key: value
            for key, value in form.items()
            if isinstance(value, str) and key != "csrf_token" and key not in but
        }
        shown = {key: value for key, value in sent.items() if "password" not in key}
        try:
            return Submitted(values=shown, data=model.model_validate(sent))
        except ValidationError as error:
            return Submitted(values=shown, errors=sentences(error))

    return read


def sentences(error: ValidationError) -> dict[str, str]:
    """Return one sentence per field of a validation error; raise InvalidInputError for a field we never offered."""
    found: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_input=False):
        name = str(problem["loc"][0]) if problem["loc"] else WHOLE_FORM
        if problem["type"] == "extra_forbidden":
            raise InvalidInputError(
                "The form holds a field that this page does not have. Reload the page and try again."
            )
        found.setdefault(name, sentence(problem["type"], problem.get("ctx", {}), problem["msg"]))
    return found


def sentence(kind: str, limits: Mapping[str, Any], message: str) -> str:
    """Return what a person should do about one problem that Pydantic reports."""
    match kind:
        case "missing":
            return "Please fill this in."
        case "string_too_short":
            least = limits["min_length"]
            return "Please fill this in." if least == 1 else f"Enter at least {least} characters."
        case "string_too_long":
            return f"Enter at most {limits['max_length']} characters."
        case "int_parsing" | "int_type" | "int_from_float":
            return "Enter a whole number."
        case "float_parsing" | "float_type" | "finite_number" | "decimal_parsing":
            return "Enter a number."
        case "greater_than_equal":
            return f"Enter {limits['ge']} or more."
        case "greater_than":
            return f"Enter more than {limits['gt']}."
        case "less_than_equal":
            return f"Enter {limits['le']} or less."
        case "less_than":
            return f"Enter less than {limits['lt']}."
        case "literal_error" | "enum":
            return "Choose one of the values offered."
        case "uuid_parsing" | "uuid_type":
            return "Choose one of the entries offered."
        case "value_error":
            return str(limits["error"])
    return message + "."

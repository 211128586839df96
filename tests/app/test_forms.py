"""Forms: sentences a person can act on, typed values kept, passwords never handed back, unknown fields refused."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import pytest
from pydantic import Field, ValidationError, field_validator

from app.errors import ConflictError, InvalidInputError
from app.forms import FormModel, Secret, blank, sentences


class Everything(FormModel):
    name: str = Field(min_length=1, max_length=5)
    code: str = Field(default="abc", min_length=3)
    k: int = Field(default=4, ge=2, le=9)
    share: float = Field(default=0.5, gt=0, lt=1)
    state: Literal["open", "closed"] = "open"
    id: UUID | None = None
    even: int = 2
    password: Secret = "x"

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("Enter an even number.")
        return value


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("name", "", "Please fill this in."),
        ("name", "   ", "Please fill this in."),
        ("name", "abcdef", "Enter at most 5 characters."),
        ("code", "ab", "Enter at least 3 characters."),
        ("k", "four", "Enter a whole number."),
        ("k", "4.5", "Enter a whole number."),
        ("k", "1", "Enter 2 or more."),
        ("k", "10", "Enter 9 or less."),
        ("share", "half", "Enter a number."),
        ("share", "0", "Enter more than 0.0."),
        ("share", "1", "Enter less than 1.0."),
        ("state", "ajar", "Choose one of the values offered."),
        ("id", "1", "Choose one of the entries offered."),
        ("even", "3", "Enter an even number."),
    ],
)
def test_each_kind_of_mistake_has_its_sentence(field: str, value: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Everything.model_validate({"name": "Kim", field: value})
    assert sentences(raised.value) == {field: sentence}


def test_a_missing_field_is_asked_for() -> None:
    with pytest.raises(ValidationError) as raised:
        Everything.model_validate({})
    assert sentences(raised.value) == {"name": "Please fill this in."}


def test_a_field_we_never_offered_is_refused() -> None:
    with pytest.raises(ValidationError) as raised:
        Everything.model_validate({"name": "Kim", "is_admin": "true"})
    with pytest.raises(InvalidInputError, match="a field that this page does not have"):
        sentences(raised.value)


def test_the_spaces_of_a_password_count_and_it_shows_in_no_repr() -> None:
    form = Everything.model_validate({"name": " Kim ", "password": " two words "})
    assert (form.name, form.password) == ("Kim", " two words ")
    assert "two words" not in repr(form)


def test_a_services_refusal_joins_the_form() -> None:
    form = blank(email="kim@example.org").refused(ConflictError("There is one already."), on="email")
    assert form.errors == {"email": "There is one already."}
    assert form.values == {"email": "kim@example.org"}
    assert form.data is None

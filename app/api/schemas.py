"""What the API's models share: closed, with texts that the database can hold, and lists with a cursor."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from app.errors import InvalidInputError
from app.services.api.listing import Listing, Part

MOST_IN_PAGE = 200
_CHECK_BYTES = 12
_BAD_CURSOR = "This cursor is not of this list with these filters. Start again without a cursor."


class Closed(BaseModel):
    """Base of all that comes in and goes out: a field that is not described is refused."""

    model_config = ConfigDict(extra="forbid")


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("A text holds no NUL character.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("A text holds no half of a surrogate pair.") from None
    return text


Text = Annotated[str, AfterValidator(_storable)]
"""A text that PostgreSQL can hold."""


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("This moment is outside the years 1 to 9999.") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A moment with its offset, kept in UTC: PostgreSQL refuses offsets of 16 hours and more, which ISO 8601 allows."""


def _storable_object(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        raise ValueError("It holds a number that is not finite, or half of a surrogate pair.") from None
    if "\\u0000" in text:
        raise ValueError("It holds a NUL character.")
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_storable_object)]
"""An object of any shape that PostgreSQL can hold."""


class PageQuery(Closed):
    """Which part of a list. Filters stand beside it; a cursor belongs to the list and the filters it came from."""

    cursor: str | None = Field(None, max_length=200, description="`next` of the page before")
    limit: int = Field(50, ge=1, le=MOST_IN_PAGE)
    order: Literal["oldest", "newest"] = Field("oldest", description="what comes first")

    def part(self, *of: object) -> Part:
        """Return the part of the list named by `of` that is asked for; raise `InvalidInputError` on a bad cursor."""
        return Part(self.limit, self._after(of), newest=self.order == "newest")

    def next(self, last: UUID | None, *of: object) -> str | None:
        """Return the cursor that goes on behind the key `last`."""
        return None if last is None else urlsafe_b64encode(last.bytes + self._check(last, of)).decode()

    def _after(self, of: tuple[object, ...]) -> UUID | None:
        if self.cursor is None:
            return None
        try:
            raw = urlsafe_b64decode(self.cursor.encode("ascii"))
            last = UUID(bytes=raw[:16])
        except ValueError:
            raise InvalidInputError(_BAD_CURSOR) from None
        # One spelling for each cursor, and none for another list: its end says which list and filters it is of.
        if urlsafe_b64encode(raw).decode() != self.cursor or raw[16:] != self._check(last, of):
            raise InvalidInputError(_BAD_CURSOR)
        return last

    def _check(self, last: UUID, of: tuple[object, ...]) -> bytes:
        filters = self.model_dump(mode="json", exclude={"cursor", "limit"})
        whole = json.dumps([type(self).__name__, str(last), [str(item) for item in of], filters], sort_keys=True)
        return hashlib.sha256(whole.encode()).digest()[:_CHECK_BYTES]


Out = TypeVar("Out", bound=BaseModel)


class Page(Closed, Generic[Out]):
    """A part of a list. `next` is the cursor of the page after it, null at the end."""

    items: list[Out]
    next: str | None = Field(description="send it as `cursor`, with the same filters")


def page(asked: PageQuery, model: type[Out], lister: Callable[[Part], Listing], *of: object) -> Page[Out]:
    """Return the page that is asked for of the list that `of` names (its project)."""
    found = lister(asked.part(*of))
    return Page[model](  # type: ignore[valid-type]  # a generic model is made for its type at run time
        items=[model.model_validate(row) for row in found.rows], next=asked.next(found.last, *of)
    )


def example(value: Any) -> ConfigDict:
    """Return the configuration of a closed model that shows an example."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [value]})

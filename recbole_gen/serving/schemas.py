"""What a request and its answer are like, and what is told of what is no request."""

# No `from __future__ import annotations`: pydantic could not find names that are local to a function.

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from recbole_gen.reading.rules import END_OF_CALENDAR
from recbole_gen.serving.limits import Limits

TOKEN_LENGTH, DATE_LENGTH = 256, 40
"""Characters in a name, and in a date."""
LAST_SECOND = END_OF_CALENDAR - 1
FIELDS = ("histories", "user", "items", "times", "scenes", "k", "exclude_seen", "candidates")


def query_and_answer(limits: Limits, n_items: int) -> tuple[Any, Any]:
    """Query and Answer: what a request and its answer are like, as pydantic's models."""
    # Without `FailFast` a list of a million wrong values makes a million messages.
    token = Annotated[str, Field(max_length=TOKEN_LENGTH)] | Annotated[int, Field(ge=-(2**63), lt=2**63)]
    seconds = Annotated[float, Field(ge=-LAST_SECOND, le=LAST_SECOND, allow_inf_nan=False)]
    events = Field(max_length=limits.max_events)
    closed = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    class History(BaseModel):
        model_config = closed
        user: token | None = Field(None, description="its name in the answer; else its place, from 0")  # type: ignore[valid-type]
        items: Annotated[list[token], events, FailFast()]  # type: ignore[valid-type]
        times: Annotated[
            list[seconds | Annotated[str, Field(max_length=DATE_LENGTH)]] | None,
            Field(description="Unix seconds, or dates as in ISO 8601, one an item"),
            events,
            FailFast(),
        ] = None
        scenes: Annotated[list[token] | None, Field(description="one an item"), events, FailFast()] = None  # type: ignore[valid-type]

    class Query(BaseModel):
        model_config = closed
        histories: Annotated[list[History], Field(min_length=1, max_length=limits.max_users), FailFast()]
        k: int = Field(10, ge=1, le=limits.max_k)
        exclude_seen: bool = True
        candidates: Annotated[list[token] | None, Field(max_length=max(n_items, limits.max_events)), FailFast()] = None  # type: ignore[valid-type]

    class Item(BaseModel):
        item: str
        score: float

    class Recommendation(BaseModel):
        user: str | int
        by: Literal["model", "popularity"] | None = Field(description="null where no item is left to recommend")
        items: list[Item]
        when: str | None = Field(
            None,
            description="likeliest day of the next event, in the window from..until, of a model that predicts times",
        )
        until: str | None = None
        from_: str | None = Field(None, alias="from")
        next_scene: str | None = Field(None, description="of a model that predicts scenes")

    class Answer(BaseModel):
        model: str
        recommendations: list[Recommendation]
        unknown_items: int = Field(description="events left out, of items that the model does not know")
        unknown_candidates: int = Field(0, description="the same for candidates, where there are any")

    return Query, Answer


def describe_error(error: ValidationError, limits: Limits, width: int) -> tuple[int, str]:
    """Status and message for what is no request. Of what was sent it repeats nothing, not even names of fields."""
    errors = error.errors(include_url=False, include_input=False)
    kind, place = errors[0]["type"], _path(errors[0]["loc"])
    if kind == "json_invalid":
        return 400, errors[0]["msg"]
    if kind == "too_long" and re.fullmatch(r"histories\[\d+\]\.(items|times|scenes)", place):
        return 422, (
            f"{place}: at most {limits.max_events} events; send the last ones. The model reads the last {width}, those "
            f"before only say what has been seen"
        )
    if kind == "extra_forbidden":
        return 422, f"{place or 'the request'}: it has a field that there is none of; /openapi.json lists them"
    messages = dict.fromkeys(each["msg"] for each in errors if _path(each["loc"]) == place)
    return 422, f"{place or 'the request'}: {'; or: '.join(messages)}"


def _path(location: tuple[str | int, ...]) -> str:
    """Such as histories[3].items[0]."""
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in FIELDS:  # others are pydantic's names of alternatives, or the client's own
            place += f".{part}" if place else part
    return place

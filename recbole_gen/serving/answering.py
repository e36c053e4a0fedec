"""From requests to their answers, by one call of the model for several where it may be.

A model that knows users by their names answers each request by itself: two requests may speak of one user. The noise of
a model that samples belongs to the history. So a request has the same answer however many others there are, up to the
last digits of the scores, in which matrix products of different sizes differ; items whose scores differ by no more may
change places.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress, groupby
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_gen.errors import UserError
from recbole_gen.recommending.histories import Histories
from recbole_gen.recommending.recommender import BY_MODEL, Recommender


@dataclass(frozen=True)
class Answer:
    """A request's answer as JSON, and what there is to count."""

    body: bytes
    by: Counter[str]
    unknown_items: int


@dataclass(frozen=True)
class _PreparedRequest:
    """A request for the model: histories without unknown items, and the names that the client has for its users."""

    histories: Histories
    names: list[str | int]
    unknown_items: int


class Answerer:
    """Answers requests of one model; used by one thread.

    Attributes:
        merges: whether one call may answer several requests.
    """

    def __init__(self, recommender: Recommender):
        self.recommender, self.name = recommender, str(recommender.config["model"])
        tokens = recommender.items.to_pylist()
        self._known = frozenset(tokens[1:])
        probe = Histories.from_lists([tokens[1:2]], [[0]], [["?"]], users=[uuid.uuid4().hex])
        table = recommender.recommend_batch(probe, k=1, exclude_seen=False)
        self.reads_users = table["by"][0] != BY_MODEL  # it has not been told about this one
        self.merges = not self.reads_users

    def answer(self, queries: Sequence[Any]) -> list[Answer | Exception]:
        """An answer, or what is wrong, for each request; all of the same k, exclude_seen and candidates.

        A UserError is about the request that it is for, anything else is a fault of ours.
        """
        found: list[Any] = [_result_or_error(self._prepare, query) for query in queries]
        ready = [place for place, each in enumerate(found) if isinstance(each, _PreparedRequest)]
        answers = _result_or_error(
            self._answer_together, [queries[place] for place in ready], [found[place] for place in ready]
        )
        if isinstance(answers, Exception) and len(ready) > 1:  # whichever it was, the others shall not suffer
            answers = [_result_or_error(self._answer_together, [queries[place]], [found[place]]) for place in ready]
            answers = [each if isinstance(each, Exception) else each[0] for each in answers]
        for place, answer in zip(ready, [answers] if isinstance(answers, Exception) else answers):
            found[place] = answer
        return found

    def _prepare(self, query: Any) -> _PreparedRequest:
        histories, unknown = query.histories, 0
        names: list[str | int] = [place if each.user is None else each.user for place, each in enumerate(histories)]
        if self.reads_users:
            if any(each.user is None for each in histories):
                raise UserError(f"{self.name} knows users by their names: give the user of each history")
            if len(set(map(str, names))) < len(names):
                raise UserError(f"{self.name} knows users by their names: give each of them once")
        if query.candidates is not None and not any(str(each) in self._known for each in query.candidates):
            raise UserError("none of the candidates is an item that the model knows")
        has = {
            "times": self.recommender.reads_times or any(each.times is not None for each in histories),
            "scenes": self.recommender.reads_scenes,
        }
        columns: dict[str, list[list[Any]]] = {"items": [], "times": [], "scenes": []}
        for place, history in enumerate(histories):
            items = list(map(str, history.items))
            kept = [item in self._known for item in items]
            unknown += kept.count(False)
            columns["items"].append(list(compress(items, kept)))
            for name in (name for name in has if has[name]):
                values = getattr(history, name) or []
                if len(values) != len(items):
                    why = f": {self.name} reads the {name} of histories" if not values else ""
                    raise UserError(f"histories[{place}] has {len(items)} items and {len(values)} {name}{why}")
                columns[name].append(list(compress(values, kept)))
        found = Histories.from_lists(
            columns["items"],
            columns["times"] if has["times"] else None,
            columns["scenes"] if has["scenes"] else None,
            names if self.reads_users else None,
        )
        return _PreparedRequest(found, names, unknown)

    def _answer_together(self, queries: Sequence[Any], requests: Sequence[_PreparedRequest]) -> list[Answer]:
        if not requests:
            return []
        histories, first = self._concatenate([each.histories for each in requests]), queries[0]
        candidates = first.candidates
        if candidates is not None:
            candidates = [each for each in map(str, candidates) if each in self._known]
        try:
            table = self.recommender.recommend_batch(histories, first.k, first.exclude_seen, candidates)
        except UserError as error:  # the request has been checked: this is the model's, such as scores that are NaN
            raise RuntimeError(str(error)) from error
        users = histories.users.to_pylist()
        answers = self._group_by_user(table, len(users), {user: place for place, user in enumerate(users)})
        answered, start = [], 0
        for query, request in zip(queries, requests):
            recommendations = answers[start : start + len(request.names)]
            start += len(request.names)
            content = {
                "model": self.name,
                "recommendations": [{"user": name, **each} for name, each in zip(request.names, recommendations)],
                "unknown_items": request.unknown_items,
            }
            if query.candidates is not None:
                content["unknown_candidates"] = len(query.candidates) - len(candidates)
            body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
            by = Counter(each["by"] for each in recommendations if each["by"] is not None)
            answered.append(Answer(body, by, request.unknown_items))
        return answered

    def _concatenate(self, parts: Sequence[Histories]) -> Histories:
        """All histories of several requests; users are called by their place unless the model knows them by name."""
        sizes = np.concatenate([np.diff(each.offsets) for each in parts])
        users = [pa.array(map(str, range(len(sizes))), pa.string())]
        times = [each.times for each in parts if each.times is not None]
        scenes = [each.scenes for each in parts if each.scenes is not None]
        return Histories(
            pa.concat_arrays([each.users for each in parts] if self.reads_users else users),
            np.concatenate([[0], np.cumsum(sizes)]),
            pa.concat_arrays([each.items for each in parts]),
            np.concatenate(times) if self.recommender.reads_times else None,
            pa.concat_arrays(scenes) if self.recommender.reads_scenes else None,
        )

    def _group_by_user(self, table: pd.DataFrame, n: int, places: dict[str, int]) -> list[dict[str, Any]]:
        """The table's rows as one answer a user; one for whom nothing is left has no rows."""
        columns = {name: table[name].tolist() for name in ("item", "score", "by")}
        once = ["by"]
        for name in ("when", "from", "until"):
            if name in table:
                days = np.datetime_as_string(table[name].to_numpy("datetime64[s]"), unit="D").tolist()
                columns[name] = [None if day == "NaT" else day for day in days]
                once.append(name)
        if "next_scene" in table:
            columns["next_scene"] = table["next_scene"].tolist()
            once.append("next_scene")
        answers: list[dict[str, Any]] = [{**dict.fromkeys(once), "items": []} for _ in range(n)]
        for user, rows in groupby(enumerate(table["user"].tolist()), key=lambda each: each[1]):
            answer, row = answers[places[user]], 0
            for row, _ in rows:
                answer["items"].append({"item": columns["item"][row], "score": columns["score"][row]})
            answer.update({name: columns[name][row] for name in once})
        return answers


def _result_or_error(step: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return step(*arguments)
    except Exception as error:
        return error

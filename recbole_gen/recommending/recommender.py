"""Recommendations from a finished run, for any history: needs the folder of the run, and not its data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from recbole_gen.errors import UserError, counted
from recbole_gen.evaluation.ties import tie_order, top_scored
from recbole_gen.model.layers import NOT_FOUND
from recbole_gen.recommending.histories import Histories
from recbole_gen.recommending.model_input import KnownHistories, ModelInput
from recbole_gen.recommending.request_checks import describe_short, require_k, require_search
from recbole_gen.recommending.saved_model import SavedModel, load_saved_model
from recbole_gen.recommending.scoring import Scorer
from recbole_gen.recommending.top_items import TopItems, build_index

SCORE_BYTES = 1 << 28
"""Bytes of scores that are in memory at once."""
BY_MODEL, BY_POPULARITY = "model", "popularity"
ANN_ABOVE = 100_000
"""Items from which on an index is asked where one is wanted."""


class Recommender:
    """A trained model that answers for users whom it need not know.

    Attributes:
        config: of the run.
        model: in evaluation mode, with the weights of the best epoch.
        items: tokens of the items in the order of their ids, padding first.
        predicts_times, predicts_scenes: whether it says when the next interaction is, and in which scene.
        reads_times, reads_scenes: what histories must come with.
        new_items: how many of the items, the last ones, the model was not trained with.
        window: how far from a predicted day the true one was, in the run that this is; None where nobody has measured.
    """

    def __init__(self, saved: SavedModel):
        self.config, self.model, self.window = saved.config, saved.model, saved.window
        self._input = ModelInput(self.config, self.model, saved.content)
        self._scorer = Scorer(self.config, self.model, self._input, self.window)
        self.items, self.new_items = self._input.items, saved.new_items
        counts, order = saved.content["serving"]["counts"], tie_order(self.items, self.config["seed"])
        self._top_items = TopItems(self._scorer, *(each.to(self.config["device"]) for each in (counts, order)))
        self.reads_times, self.reads_scenes = self._input.reads_times, self._input.reads_scenes
        self.predicts_times = self.reads_times and hasattr(self.model, "when")
        self.predicts_scenes = hasattr(self.model, "full_sort_predict_scene")
        scenes = [] if self._input.scenes is None else self._input.scenes
        self._scene_order = tie_order(scenes, self.config["seed"]).to(self.config["device"])
        self._reads_users = self._scorer.reads_users()
        self._needs_history = not self.config["empty_history"]

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | None = None,
        search: str = "exact",
        ann_above: int = ANN_ABOVE,
        model: str | type | None = None,
        items: str | Path | None = None,
    ) -> Recommender:
        """The model of a run's folder, from the best.pth in it (and when.json, if it predicts times).

        Args:
            device: "cpu" or "cuda"; None for the one that a run with this configuration would use here.
            search: "exact": every item is scored. "ann": of more items than ``ann_above`` the best are found by an
                index, which is built here, takes memory and may miss some; what it finds is scored as ever.
            model: of a run whose model is a class of somebody's own, that class or its name, such as
                my_package.my_module:MyModel: a checkpoint alone does not have code imported.
            items: a file, or the folder of an `export`, with names and vectors of new items, in the forms of the key
                `item_vectors`. They are ranked beside those of the run, and histories may hold them: of a run with
                `item_vectors_use: frozen` (vectors of the model's width) or `adaptor` (of the width it was given).

        Raises UserError if there is no such run, its checkpoint is damaged, foreign, or not of one piece, or its model
        recommends nothing from histories; with "ann" if the model does not score by inner products, or faiss is
        missing; for items that cannot be read or are the run's own, for vectors of another width, and for a run whose
        items are not ranked by given vectors alone.
        """
        require_search(search)
        recommender = cls(load_saved_model(folder, device, model, items))
        if search == "ann" and len(recommender.require_item_vectors()) - 1 > ann_above:
            recommender._top_items.index = build_index(
                recommender._scorer, recommender._input, recommender._top_items.order
            )
        return recommender

    def describe_new_items(self) -> str:
        """What to tell of the items that it was not trained with."""
        own = len(self.items) - 1 - self.new_items
        return f"{counted(self.new_items, 'new item', 'are')} ranked beside the {own:,} of the run"

    # Answers

    def recommend(
        self,
        histories: Sequence[Sequence[Any]] | Histories,
        k: int = 10,
        times: Sequence[Sequence[Any]] | None = None,
        scenes: Sequence[Sequence[Any]] | None = None,
        exclude_seen: bool = True,
        candidates: Sequence[Any] | None = None,
        users: Sequence[Any] | None = None,
    ) -> pd.DataFrame:
        """The best k items for each history.

        A history has the same answer in any order and company, up to the last digits of the scores: matrix products of
        other sizes are rounded otherwise, and items whose scores differ by no more may change places.

        Args:
            histories: items of each user, oldest first, by the names that they have in the data set, of any length.
                Unknown items are left out, and told in the log.
            times: of the same shape, Unix seconds or dates: for models that read them. Histories are sorted by them.
            scenes: of the same shape, for models that read them.
            exclude_seen: whether what is in a history is not recommended.
            candidates: the items that may be recommended; None for all.
            users: names for the histories, else 0, 1, ... Models that know users by name need these.

        Returns a table with a row an answer: user, rank (from 1), item, score, and by (model, or popularity where the
        model cannot answer: a history without a known item, a user whom the model should know and does not). Of a model
        that predicts times also when, from and until (dates, see `when`), of one that predicts scenes next_scene.
        Its ``attrs`` have the numbers: unknown (events left out), by_popularity (users), short (users with fewer items
        than ``k`` since the model has come to no more, as with `beam_size`).

        Raises UserError for bad input.
        """
        histories = _as_histories(histories, times, scenes, users)
        table, warnings = self._recommend_with_warnings(histories, k, exclude_seen, candidates)
        _log_warnings(warnings)
        return table

    def when(self, histories, times=None, users=None) -> pd.DataFrame:
        """The day of each user's next interaction: user, when, from, until (dates), one row a user.

        From and until bound the days in which a given share of the true ones have been for rows of validation (see
        `calibration`); of a run without that measurement, the days that the prediction cannot be told from. When is the
        day that the model says or, where it errs so much to one side that this day is outside of the window, the
        window's nearest. NaT for a history without a known item.

        Raises UserError for a model that predicts no times.
        """
        histories = _as_histories(histories, times, None, users)
        if not self.predicts_times:
            raise UserError(f"{self.config['model']} predicts no times: train PASRec")
        known = self._input.known(histories)
        parts = [self._scorer.next_days(self._input.interaction(batch)) for batch in known.batches(self._batch_size())]
        dates = {name: np.concatenate([part[name] for part in parts] or [np.empty(0, "datetime64[s]")])
                 for name in ("when", "from", "until")}  # fmt: skip
        empty = known.sizes == 0
        for values in dates.values():
            values[empty] = np.datetime64("NaT")
        return pd.DataFrame({"user": histories.users.to_pandas(), **dates})

    def next_scenes(self, histories, scenes=None, k: int = 3, users=None) -> pd.DataFrame:
        """The likeliest scenes of each user's next interaction: user, rank, scene, score.

        Raises UserError for a model that predicts no scenes.
        """
        histories = _as_histories(histories, None, scenes, users)
        if not self.predicts_scenes or self._input.scenes is None:
            raise UserError(f"{self.config['model']} predicts no scenes: train DSPnet")
        known = self._input.known(histories)
        tops = []
        for batch in known.batches(self._batch_size()):
            scores = self._scorer.scene_scores(self._input.interaction(batch))
            tops.append([part.cpu() for part in top_scored(scores, min(k, scores.shape[1] - 1), self._scene_order)])
        return _answers_table(histories.users, tops, self._input.scenes, "scene")

    def recommend_batch(
        self, histories: Histories, k: int = 10, exclude_seen: bool = True, candidates: Sequence[Any] | None = None
    ) -> pd.DataFrame:
        """As `recommend`, but nothing is logged."""
        return self._recommend_with_warnings(histories, k, exclude_seen, candidates)[0]

    def _recommend_with_warnings(
        self, histories: Histories, k: int, exclude_seen: bool, candidates: Sequence[Any] | None
    ) -> tuple[pd.DataFrame, list[str]]:
        """The table, and what to warn of."""
        require_k(k)
        known, width = self._input.known(histories), min(k, len(self.items) - 1)
        allowed, warnings = (None, []) if candidates is None else self._input.candidate_mask(candidates)
        by_model = self._answered_by_model(known)
        tops, extra = [], {}
        dates: list[dict[str, np.ndarray]] = []
        scenes: list[np.ndarray] = []
        for batch in known.batches(self._batch_size()):
            interaction = self._input.interaction(batch)
            by_popularity = ~by_model[batch.rows]
            top = self._top_items.top(interaction, batch, by_popularity, width, exclude_seen, allowed)
            tops.append([part.cpu() for part in top])
            if self.predicts_times:
                dates.append(self._scorer.next_days(interaction))
            if self.predicts_scenes and self._input.scenes is not None:
                best = top_scored(self._scorer.scene_scores(interaction), 1, self._scene_order)[1]
                scenes.append(best.squeeze(1).cpu().numpy())
        for name in ("when", "from", "until") if dates else ():
            extra[name] = np.concatenate([part[name] for part in dates])
            extra[name][known.sizes == 0] = np.datetime64("NaT")
        if scenes and self._input.scenes is not None:
            extra["next_scene"] = np.array(self._input.scenes.to_pylist(), dtype=object)[np.concatenate(scenes)]
        table = _answers_table(histories.users, tops, self.items, "item", {
            "by": np.where(by_model, BY_MODEL, BY_POPULARITY).astype(object), **extra,
        })  # fmt: skip
        short = sum(int((values == NOT_FOUND).any(1).sum()) for values, _ in tops)
        table.attrs = {"unknown": known.n_unknown, "by_popularity": int((~by_model).sum()), "short": short}
        return table, warnings + self._warnings(known, table.attrs["by_popularity"], short)

    # Vectors

    def item_vectors(self) -> torch.Tensor | None:
        """[n_items, d] in the order of ``items``, padding first; None for a model that scores by no inner products.

        With them, scores are ``vectors(...) @ item_vectors().T``.
        """
        return self._scorer.item_vectors

    def require_item_vectors(self) -> torch.Tensor:
        """`item_vectors`, or a UserError where there are none."""
        return self._scorer.require_item_vectors()

    def vectors(
        self,
        histories: Sequence[Sequence[Any]] | Histories,
        times: Sequence[Sequence[Any]] | None = None,
        scenes: Sequence[Sequence[Any]] | None = None,
        users: Sequence[Any] | None = None,
    ) -> np.ndarray:
        """The vector of each history, float32 [n, d]; of a generating model, the oracle items behind `recommend`.

        The arguments are those of `recommend`. NaN for what the model cannot answer: a history without a known item, a
        user whom the model should know and does not. A history has the same vector in any order and company.

        Raises UserError for bad input, and for a model without `item_vectors`.
        """
        histories = _as_histories(histories, times, scenes, users)
        vectors, warnings = self._vectors_with_warnings(histories)
        _log_warnings(warnings)
        return vectors

    def encode_batch(self, histories: Histories) -> np.ndarray:
        """As `vectors`, but nothing is logged."""
        return self._vectors_with_warnings(histories)[0]

    def _vectors_with_warnings(self, histories: Histories) -> tuple[np.ndarray, list[str]]:
        size = self.require_item_vectors().shape[1]
        known = self._input.known(histories)
        vectors = np.empty((len(histories), size), dtype=np.float32)
        for batch in known.batches(self._batch_size()):
            vectors[batch.rows] = self._scorer.user_vectors(self._input.interaction(batch)).float().cpu().numpy()
        vectors[~self._answered_by_model(known)] = np.nan
        return vectors, self._warnings(known, 0, 0)

    def _answered_by_model(self, known: KnownHistories) -> np.ndarray:
        """[n] bool; the others are answered by popularity."""
        by_model = np.ones(len(known), dtype=bool)
        if self._needs_history:
            by_model &= known.sizes > 0
        if self._reads_users:
            by_model &= known.users > 0
        return by_model

    def _batch_size(self) -> int:
        return max(1, min(self.config["eval_batch_size"], SCORE_BYTES // (4 * len(self.items))))

    def _warnings(self, known: KnownHistories, by_popularity: int, short: int) -> list[str]:
        warnings = []
        if known.n_unknown:
            examples = ", ".join(map(repr, known.unknown_examples))
            warnings.append(
                f"{counted(known.n_unknown, 'event', 'are')} left out, of items that the model does not know, such as "
                f"{examples}"
            )
        if by_popularity:
            what = "the model does not know them" if self._reads_users else "the history has no known item"
            warnings.append(f"{counted(by_popularity, 'user', 'are')} answered by popularity, for {what}")
        if short:
            warnings.append(describe_short(short))
        return warnings


def _as_histories(histories, times, scenes, users) -> Histories:
    return histories if isinstance(histories, Histories) else Histories.from_lists(histories, times, scenes, users)


def _answers_table(
    users: pa.Array, tops: list, tokens: pa.Array, name: str, extra: dict[str, np.ndarray] | None = None
) -> pd.DataFrame:
    """A row an answer; places that nothing is left for have none."""
    if not tops:
        return pd.DataFrame(columns=["user", "rank", name, "score", *(extra or {})])
    values, indices = (torch.cat(parts).numpy() for parts in zip(*tops, strict=True))
    kept = values > NOT_FOUND
    row, rank = kept.nonzero()
    columns: dict[str, Any] = {
        "user": users.take(pa.array(row)).to_pandas(),
        "rank": rank + 1,
        name: tokens.take(pa.array(indices[kept])).to_pandas(),
        "score": values[kept],
    }
    return pd.DataFrame(columns | {field: each[row] for field, each in (extra or {}).items()})


def _log_warnings(warnings: list[str]) -> None:
    for line in warnings:
        logging.getLogger().warning(line)

"""Recommendations from a finished run, for any history: needs the folder of the run, and not its data set."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType, ModelType

from recbole_gen import checkpoint
from recbole_gen.config.config import Config
from recbole_gen.data.requirements import needs
from recbole_gen.data.times import DayRange
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.evaluation import calibration
from recbole_gen.quick_start import best_checkpoint, create_model, settings_of
from recbole_gen.recommending.histories import Histories
from recbole_gen.recommending.item_index import BEST, SHARE, ApproximateSearch, ExactSearch, Search

SCORES = 1 << 28
"""Bytes of scores that are in memory at once."""
BY_MODEL, BY_POPULARITY = "model", "popularity"
SEARCHES = ("exact", "ann")
ANN_ABOVE = 100_000
"""Items from which on an index is asked where one is wanted."""
TRIED = 64
"""Random histories by which an index is tried."""
MOST_SEEN = 1000
"""Places that are searched in an index beyond k, for what a user has seen."""
INPUTS = {"item_seq": "ITEM_SEQ", "seq_item": "ITEM_SEQ", "item_seq_len": "ITEM_SEQ_LEN",
          "seq_item_len": "ITEM_SEQ_LEN", "user": "USER_ID"}  # fmt: skip
"""What the `forward` of RecBole's models takes -> the attribute of the model that names its column."""


class Vocabulary:
    """What a model reads of a data set when it is built: its sizes. There are no interactions behind it."""

    def __init__(self, config, content: dict[str, Any]):
        self._sizes: dict[str, int] = content["serving"]["sizes"]
        self.field2seqlen: dict[str, int] = content["serving"]["lengths"]
        self.field2type = {field: FeatureType(kind) for field, kind in content["serving"]["types"].items()}
        self._features: dict[str, torch.Tensor] = content["serving"]["item_features"]
        self.config = config
        self.uid_field, self.iid_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        self.user_num, self.item_num = self.num(self.uid_field), self.num(self.iid_field)
        if "day_range" in content["state_dict"]:
            self.day_range = DayRange(*content["state_dict"]["day_range"].tolist())

    def num(self, field: str) -> int:
        """How many values a field has, padding included."""
        if field not in self._sizes:
            raise _NeedsData(f"the values of '{field}'")
        return self._sizes[field]

    def get_item_feature(self) -> Interaction:
        """The columns of the items that the model has been trained with."""
        if not self._features:
            raise _NeedsData("the features of items")
        return Interaction(dict(self._features))

    def __getattr__(self, name: str):
        raise _NeedsData(name)


class _NeedsData(AttributeError):
    """A model reads something of a data set that a checkpoint does not have."""


class Recommender:
    """A trained model that answers for users whom it need not know.

    Attributes:
        config: of the run.
        model: in evaluation mode, with the weights of the best epoch.
        items: tokens of the items in the order of their ids, padding first.
        predicts_times, predicts_scenes: whether it says when the next interaction is, and in which scene.
        reads_times, reads_scenes: what histories must come with.
        window: how far from a predicted day the true one was, in the run that this is; None where nobody has measured.
    """

    def __init__(self, config: Config, model: Any, content: dict[str, Any], window: calibration.Window | None):
        self.config, self.model, self.window = config, model, window
        vocabulary, serving = content["vocabulary"], content["serving"]
        self.items = pa.array(vocabulary[config["ITEM_ID_FIELD"]], pa.string())
        self._users = pa.array(vocabulary[config["USER_ID_FIELD"]], pa.string())
        self._popularity: torch.Tensor = serving["counts"].to(config["device"])
        self._scenes = None if serving["scenes"] is None else pa.array(serving["scenes"], pa.string())
        self.reads_times, self.reads_scenes = needs(config, "times"), needs(config, "scenes")
        self.predicts_times = self.reads_times and hasattr(model, "when")
        self.predicts_scenes = hasattr(model, "full_sort_predict_scene")
        self._index: ApproximateSearch | None = None
        self._reads_users = self._asks_for_users()
        self._needs_history = not config["empty_history"]

    @classmethod
    def load(
        cls, folder: str | Path, device: str | None = None, search: str = "exact", ann_above: int = ANN_ABOVE
    ) -> Recommender:
        """The model of a run's folder, from the best.pth in it (and when.json, if it predicts times).

        Args:
            device: "cpu" or "cuda"; None for the one that a run with this configuration would use here.
            search: "exact": every item is scored. "ann": of more items than ``ann_above`` the best are found by an
                index, which is built here, takes memory and may miss some; what it finds is scored as ever.

        Raises UserError if there is no such run, its checkpoint is damaged, foreign, or not of one piece, or its model
        recommends nothing from histories; with "ann" if the model does not score by inner products, or faiss is
        missing.
        """
        if search not in SEARCHES:
            raise UserError(
                f"search must be one of {', '.join(SEARCHES)}, got {search!r}.{did_you_mean(search, SEARCHES)}"
            )
        path = best_checkpoint(folder)
        content = _checked(path, checkpoint.load(path))
        changes = {} if device is None else {"use_gpu": device != "cpu"}
        config = Config(stored={**settings_of(content), **changes}, needs_data=False)
        if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            raise UserError(f"{content['model']} reads no histories: recommending needs a sequential model")
        model = _built(path, config, content)
        window = calibration.read(Path(folder) / calibration.FILE) if hasattr(model, "when") else None
        recommender = cls(config, model.to(config["device"]).eval(), content, window)
        if search == "ann":
            items = recommender.require_item_vectors()
            if len(items) - 1 > ann_above:
                recommender._index = recommender._new_index(items)
        return recommender

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
        """The best k items for each history. The same call gives the same answer.

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
        Its ``attrs`` have the numbers: unknown (events left out), by_popularity (users).

        Raises UserError for bad input.
        """
        given = histories if isinstance(histories, Histories) else Histories.of(histories, times, scenes, users)
        self.begin()
        table, told = self._answer(given, k, exclude_seen, candidates)
        self._log(told)
        return table

    def when(self, histories, times=None, users=None) -> pd.DataFrame:
        """The day of each user's next interaction: user, when, from, until (dates), one row a user.

        From and until bound the days in which a given share of the true ones have been for rows of validation (see
        `calibration`); of a run without that measurement, the days that the prediction cannot be told from. NaT for a
        history without a known item.

        Raises UserError for a model that predicts no times.
        """
        given = histories if isinstance(histories, Histories) else Histories.of(histories, times, None, users)
        if not self.predicts_times:
            raise UserError(f"{self.config['model']} predicts no times: train PASRec")
        known = self._known(given)
        parts = [self._when(self._interaction(batch)) for batch in known.batches(self._batch_size())]
        dates = {name: np.concatenate([part[name] for part in parts] or [np.empty(0, "datetime64[s]")])
                 for name in ("when", "from", "until")}  # fmt: skip
        empty = known.sizes == 0
        for values in dates.values():
            values[empty] = np.datetime64("NaT")
        return pd.DataFrame({"user": given.users.to_pandas(), **dates})

    def next_scenes(self, histories, scenes=None, k: int = 3, users=None) -> pd.DataFrame:
        """The likeliest scenes of each user's next interaction: user, rank, scene, score.

        Raises UserError for a model that predicts no scenes.
        """
        given = histories if isinstance(histories, Histories) else Histories.of(histories, None, scenes, users)
        if not self.predicts_scenes or self._scenes is None:
            raise UserError(f"{self.config['model']} predicts no scenes: train DSPnet")
        known = self._known(given)
        tops = []
        for batch in known.batches(self._batch_size()):
            scores = self._scene_scores(self._interaction(batch))
            tops.append([part.cpu() for part in scores.topk(min(k, scores.shape[1] - 1))])
        return self._table(given.users, tops, self._scenes, "scene")

    def begin(self) -> None:
        """Start the random numbers of sampling anew, as an evaluation does."""
        generator = getattr(self.model, "eval_generator", None)
        if generator is not None:
            generator.manual_seed(self.config["seed"])

    @property
    def state(self) -> bytes | None:
        """Where the random numbers of sampling are, for `restore`; None for a model that draws none."""
        generator = getattr(self.model, "eval_generator", None)
        return None if generator is None else bytes(generator.get_state().tolist())

    def restore(self, state: bytes | None) -> None:
        """Go on from a `state`."""
        if state is not None:
            self.model.eval_generator.set_state(torch.tensor(list(state), dtype=torch.uint8))

    def answer(
        self, given: Histories, k: int = 10, exclude_seen: bool = True, candidates: Sequence[Any] | None = None
    ) -> pd.DataFrame:
        """As `recommend`, but the random numbers go on where the last answer has left them, and nothing is logged."""
        return self._answer(given, k, exclude_seen, candidates)[0]

    def _answer(
        self, given: Histories, k: int, exclude_seen: bool, candidates: Sequence[Any] | None
    ) -> tuple[pd.DataFrame, list[str]]:
        """The table, and what there is to tell of it."""
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise UserError(f"k must be a whole number of at least 1, got {k!r}")
        known, width = self._known(given), min(k, len(self.items) - 1)
        allowed, told = self._allowed(candidates)
        by_model = self._answerable(known, given)
        tops, extra = [], {}
        dates: list[dict[str, np.ndarray]] = []
        scenes: list[np.ndarray] = []
        for batch in known.batches(self._batch_size()):
            interaction = self._interaction(batch)
            popular = ~by_model[batch.rows]
            if self._index is None or allowed is not None:
                top = self._best(interaction, batch, popular, width, exclude_seen, allowed)
            else:
                top = self._near(self._index, interaction, batch, popular, width, exclude_seen)
            tops.append([part.cpu() for part in top])
            if self.predicts_times:
                dates.append(self._when(interaction))
            if self.predicts_scenes:
                scenes.append(self._scene_scores(interaction).argmax(1).cpu().numpy())
        for name in ("when", "from", "until") if dates else ():
            extra[name] = np.concatenate([part[name] for part in dates])
            extra[name][known.sizes == 0] = np.datetime64("NaT")
        if scenes and self._scenes is not None:
            extra["next_scene"] = np.array(self._scenes.to_pylist(), dtype=object)[np.concatenate(scenes)]
        table = self._table(given.users, tops, self.items, "item", {
            "by": np.where(by_model, BY_MODEL, BY_POPULARITY).astype(object), **extra,
        })  # fmt: skip
        table.attrs = {"unknown": known.unknown, "by_popularity": int((~by_model).sum())}
        return table, told + self._told(known, table.attrs["by_popularity"])

    # Vectors

    def item_vectors(self) -> torch.Tensor | None:
        """[n_items, d] in the order of ``items``, padding first; None for a model that scores by no inner products.

        With them, scores are ``vectors(...) @ item_vectors().T``.
        """
        return self._item_vectors

    def require_item_vectors(self) -> torch.Tensor:
        """`item_vectors`, or a UserError where there are none."""
        if self._item_vectors is None:
            raise UserError(
                f"{self.config['model']} does not score items by inner products with one vector of the user, so there "
                f"are no vectors of items to export or to search: recommend scores all of them"
            )
        return self._item_vectors

    def vectors(
        self,
        histories: Sequence[Sequence[Any]] | Histories,
        times: Sequence[Sequence[Any]] | None = None,
        scenes: Sequence[Sequence[Any]] | None = None,
        users: Sequence[Any] | None = None,
    ) -> np.ndarray:
        """The vector of each history, float32 [n, d]; of a generating model, the oracle items behind `recommend`.

        The arguments are those of `recommend`. NaN for what the model cannot answer: a history without a known item, a
        user whom the model should know and does not. The same call gives the same vectors.

        Raises UserError for bad input, and for a model without `item_vectors`.
        """
        given = histories if isinstance(histories, Histories) else Histories.of(histories, times, scenes, users)
        self.begin()
        vectors, told = self._encode(given)
        self._log(told)
        return vectors

    def encode(self, given: Histories) -> np.ndarray:
        """As `vectors`, but the random numbers go on where the last answer has left them, and nothing is logged."""
        return self._encode(given)[0]

    def _encode(self, given: Histories) -> tuple[np.ndarray, list[str]]:
        size = self.require_item_vectors().shape[1]
        known = self._known(given)
        vectors = np.empty((len(given), size), dtype=np.float32)
        for batch in known.batches(self._batch_size()):
            vectors[batch.rows] = self._user_vectors(self._interaction(batch)).float().cpu().numpy()
        vectors[~self._answerable(known, given)] = np.nan
        return vectors, self._told(known, 0)

    # From tokens to batches

    def _known(self, given: Histories) -> _Known:
        for reads, have, name in (
            (self.reads_times, given.times is not None, "times"),
            (self.reads_scenes, given.scenes is not None, "scenes"),
        ):
            if reads and not have and len(given.items):
                raise UserError(f"{self.config['model']} reads the {name} of histories: give {name}, one an item")
        ids = _ids(given.items, self.items)
        kept = ids > 0
        rows = np.repeat(np.arange(len(given)), np.diff(given.offsets))
        examples = given.items.filter(pa.array(~kept)).slice(0, 3).to_pylist() if not kept.all() else []
        scenes = None if given.scenes is None or self._scenes is None else _ids(given.scenes, self._scenes)[kept]
        return _Known(
            np.bincount(rows[kept], minlength=len(given)),
            ids[kept],
            None if given.times is None else given.times[kept],
            scenes,
            _ids(given.users, self._users),
            int((~kept).sum()),
            examples,
        )

    def _answerable(self, known: _Known, given: Histories) -> np.ndarray:
        by_model = np.ones(len(given), dtype=bool)
        if self._needs_history:
            by_model &= known.sizes > 0
        if self._reads_users:
            by_model &= known.users > 0
        return by_model

    def _allowed(self, candidates: Sequence[Any] | None) -> tuple[torch.Tensor | None, list[str]]:
        """[n_items] bool, or None where all items are allowed, and what there is to tell."""
        if candidates is None:
            return None, []
        tokens = pa.array([str(token) for token in candidates], pa.string())
        ids = _ids(tokens, self.items)
        if not (ids > 0).any():
            raise UserError("none of the candidates is an item that the model knows")
        unknown = int((ids <= 0).sum())
        told = [f"{unknown} of {len(ids)} candidates are unknown and left out"] if unknown else []
        allowed = torch.zeros(len(self.items), dtype=torch.bool)
        allowed[torch.from_numpy(ids[ids > 0])] = True
        return allowed.to(self.config["device"]), told

    def _batch_size(self) -> int:
        return max(1, min(self.config["eval_batch_size"], SCORES // (4 * len(self.items))))

    def _interaction(self, batch: _Known) -> Interaction:
        """The columns that an evaluation gives a model, for histories cut to their last items."""
        config, width = self.config, self.config["MAX_ITEM_LIST_LENGTH"]
        suffix = config["LIST_SUFFIX"]
        ends = np.cumsum(batch.sizes)
        length = np.minimum(batch.sizes, width)
        step = np.arange(width)
        real = step < length[:, None]
        place = np.where(real, (ends - length)[:, None] + step, 0)

        def windows(values: np.ndarray) -> torch.Tensor:
            if not len(values):
                return torch.zeros(real.shape, dtype=torch.from_numpy(values).dtype)
            return torch.from_numpy(np.where(real, values[place], 0).astype(values.dtype))

        columns = {
            config["USER_ID_FIELD"]: torch.from_numpy(np.maximum(batch.users, 0)),
            config["ITEM_ID_FIELD"] + suffix: windows(batch.items),
            config["ITEM_LIST_LENGTH_FIELD"]: torch.from_numpy(np.maximum(length, 1)),
        }
        if batch.times is not None and self.reads_times:
            first, last = self.model.day_range.tolist()
            scaled = DayRange(first, last).scale(torch.from_numpy(batch.times)).numpy()
            columns[config["TOI_FIELD"] + suffix] = windows(scaled)
        elif self.reads_times:
            columns[config["TOI_FIELD"] + suffix] = torch.zeros(real.shape)
        if self.reads_scenes:
            none = np.zeros(0, dtype=np.int64)
            columns[config["SCENE_FIELD"] + suffix] = windows(
                none if batch.scenes is None else np.maximum(batch.scenes, 0)
            )
        return Interaction(columns).to(config["device"])

    # The best items

    def _best(
        self, interaction: Interaction, batch: _Known, popular: np.ndarray, width: int, exclude_seen: bool,
        allowed: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Scores and ids [B, width] of the best items, the best first; -inf where nothing is left."""
        scores = self._scores(interaction)
        if popular.any():
            scores[torch.from_numpy(popular).to(scores.device)] = self._popularity.to(scores.dtype)
        scores[:, 0] = -torch.inf
        if allowed is not None:
            scores.masked_fill_(~allowed, -torch.inf)
        if exclude_seen:
            rows = np.repeat(np.arange(len(batch)), batch.sizes)
            scores[torch.from_numpy(rows), torch.from_numpy(batch.items)] = -torch.inf
        return scores.topk(width)

    def _near(
        self, index: Search, interaction: Interaction, batch: _Known, popular: np.ndarray, width: int,
        exclude_seen: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """As `_best`, by an index; users for whom it finds too few unseen items are compared with all."""
        queries = self._user_vectors(interaction)
        self._refuse_nan(queries)
        seen = int(batch.sizes.max(initial=0)) if exclude_seen else 0
        values, ids = self._unseen(index, queries, batch, width, min(seen, MOST_SEEN), exclude_seen)
        short = ((values == -torch.inf).any(1).cpu().numpy()) & ~popular
        # Popularity is an inner product too, of one dimension.
        by_popularity = ExactSearch(self._popularity.to(queries.dtype).unsqueeze(1))
        for rows, search, vectors in (
            (short, ExactSearch(self.require_item_vectors()), queries),
            (popular, by_popularity, queries.new_ones(len(batch), 1)),
        ):
            if rows.any():
                chosen = torch.from_numpy(rows).to(queries.device)
                values[chosen], ids[chosen] = self._unseen(
                    search, vectors[chosen], batch.chosen(rows), width, seen, exclude_seen
                )
        return values, ids

    def _new_index(self, items: torch.Tensor) -> ApproximateSearch:
        """An index that searches as widely as the vectors of random histories need it to; its quality is logged."""
        index, state = ApproximateSearch(items), self.state
        share = index.fit(self._user_vectors(self._random_histories(TRIED)))
        self.restore(state)
        told = f"the index finds {share:.1%} of the best {BEST} of {len(items) - 1:,} items for random histories"
        if share < SHARE:
            logging.getLogger().warning(f"{told}: --search=exact finds all")
        else:
            logging.getLogger().info(told)
        return index

    def _unseen(
        self, search: Search, queries: torch.Tensor, batch: _Known, width: int, more: int, exclude_seen: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best of what a search finds and the histories have not; ``more``: places to search beyond width."""
        n_items = len(self.items)
        values, ids = search.search(queries, min(width + more, n_items - 1))
        if exclude_seen:
            rows = np.repeat(np.arange(len(batch)), batch.sizes)
            seen = torch.from_numpy(rows * n_items + batch.items).to(ids.device)
            places = torch.arange(len(batch), device=ids.device).unsqueeze(1) * n_items + ids
            values = values.masked_fill(torch.isin(places, seen), -torch.inf)
        values, order = values.topk(width)
        return values, ids.gather(1, order)

    # What models say

    @torch.no_grad()
    def _scores(self, interaction: Interaction) -> torch.Tensor:
        try:
            scores = self.model.full_sort_predict(interaction).view(-1, len(self.items))
        except KeyError as error:
            raise UserError(
                f"{self.config['model']} reads the column {error} of its data set, which a history does not have"
            ) from None
        self._refuse_nan(scores)
        return scores.clone()

    @torch.no_grad()
    def _scene_scores(self, interaction: Interaction) -> torch.Tensor:
        scores = self.model.full_sort_predict_scene(interaction).clone()
        self._refuse_nan(scores)
        scores[:, 0] = -torch.inf
        return scores

    @torch.no_grad()
    def _user_vectors(self, interaction: Interaction) -> torch.Tensor:
        """[B, d], of a model with `item_vectors`."""
        if hasattr(self.model, "user_vectors"):
            return self.model.user_vectors(interaction)
        names = [getattr(self.model, INPUTS[name]) for name in inspect.signature(self.model.forward).parameters]
        return self.model.forward(*(interaction[name] for name in names)).view(len(interaction), -1)

    @cached_property
    def _item_vectors(self) -> torch.Tensor | None:
        """Of models that have no `item_vectors`, such as RecBole's: the item table, if it gives the scores of a try."""
        if hasattr(self.model, "item_vectors"):
            return self.model.item_vectors().detach()
        table = getattr(self.model, "item_embedding", None)
        if (
            not isinstance(table, torch.nn.Embedding)
            or not inspect.signature(self.model.forward).parameters.keys() <= INPUTS.keys()
        ):
            return None
        items = table.weight.detach()[: len(self.items)]
        probe = self._random_histories(8)
        queries, scores = self._user_vectors(probe), self._scores(probe)
        if queries.shape[1:] != items.shape[1:] or scores.shape[1] != len(items):
            return None
        return items if torch.allclose(queries @ items.T, scores, rtol=1e-4, atol=1e-5) else None

    def _random_histories(self, n: int) -> Interaction:
        """Of random items and lengths, always the same ones, on the last day of the data."""
        draw = np.random.default_rng(0)
        sizes = draw.integers(1, self.config["MAX_ITEM_LIST_LENGTH"], n, endpoint=True)
        items = draw.integers(1, len(self.items), int(sizes.sum()))
        times = np.full(len(items), 86400.0 * int(self.model.day_range[1])) if self.reads_times else None
        scenes = np.ones_like(items) if self.reads_scenes else None
        return self._interaction(_Known(sizes, items, times, scenes, np.ones(n, dtype=np.int64)))

    def _refuse_nan(self, scores: torch.Tensor) -> None:
        if torch.isnan(scores).any():
            raise UserError(f"{self.config['model']} gives scores that are not numbers: its weights have diverged")

    def _when(self, interaction: Interaction) -> dict[str, np.ndarray]:
        found = self.model.when(interaction)
        last = self.model.last_day(interaction).cpu().numpy()
        day, earliest, latest = (part.cpu().numpy() for part in found)
        if self.window is not None:
            earliest, latest = self.window.around(day, last)
        return {
            name: days.astype("datetime64[D]").astype("datetime64[s]")
            for name, days in (("when", day), ("from", earliest), ("until", latest))
        }

    def _asks_for_users(self) -> bool:
        """Whether the model reads who a user is; found out by not telling it."""
        probe = self._random_histories(1)
        rest = {field: value for field, value in probe.interaction.items() if field != self.config["USER_ID_FIELD"]}
        try:
            self._scores(Interaction(rest))
        except UserError as error:
            if f"'{self.config['USER_ID_FIELD']}'" in str(error):
                return True
            raise
        return False

    # Tables

    def _table(
        self, users: pa.Array, tops: list, tokens: pa.Array, name: str, extra: dict[str, np.ndarray] | None = None
    ) -> pd.DataFrame:
        """A row an answer; places that nothing is left for have none."""
        if not tops:
            return pd.DataFrame(columns=["user", "rank", name, "score", *(extra or {})])
        values, indices = (torch.cat(parts).numpy() for parts in zip(*tops, strict=True))
        kept = values > -np.inf
        row, rank = kept.nonzero()
        columns: dict[str, Any] = {
            "user": users.take(pa.array(row)).to_pandas(),
            "rank": rank + 1,
            name: tokens.take(pa.array(indices[kept])).to_pandas(),
            "score": values[kept],
        }
        return pd.DataFrame(columns | {field: each[row] for field, each in (extra or {}).items()})

    def _told(self, known: _Known, by_popularity: int) -> list[str]:
        told = []
        if known.unknown:
            examples = ", ".join(map(repr, known.examples))
            told.append(
                f"{known.unknown} events are of items that the model does not know, such as {examples}, and are left "
                f"out"
            )
        if by_popularity:
            what = "the model does not know them" if self._reads_users else "there is no known item in their history"
            told.append(f"{by_popularity} users are answered by popularity, for {what}")
        return told

    @staticmethod
    def _log(told: list[str]) -> None:
        for line in told:
            logging.getLogger().warning(line)


class _Known:
    """Histories in the numbers of a model: n users, N events that it knows.

    Attributes:
        sizes: [n] events of each.
        items, times, scenes: [N]; times in Unix seconds, None where there are none.
        users: [n] their ids, at most 0 for those that the model does not know.
        rows: which of all users these are.
    """

    def __init__(self, sizes, items, times, scenes, users, unknown=0, examples=(), rows=None):
        self.sizes, self.items, self.times, self.scenes, self.users = sizes, items, times, scenes, users
        self.unknown, self.examples = unknown, examples
        self.rows = slice(0, len(sizes)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.sizes)

    def batches(self, size: int) -> Iterator[_Known]:
        ends = np.concatenate([[0], np.cumsum(self.sizes)])
        for first in range(0, len(self), size):
            rows = slice(first, min(first + size, len(self)))
            events = slice(int(ends[rows.start]), int(ends[rows.stop]))
            times, scenes = (None if each is None else each[events] for each in (self.times, self.scenes))
            yield _Known(self.sizes[rows], self.items[events], times, scenes, self.users[rows], rows=rows)

    def chosen(self, rows: np.ndarray) -> _Known:
        """Some of them, [n] True for those; without times and scenes."""
        return _Known(self.sizes[rows], self.items[np.repeat(rows, self.sizes)], None, None, self.users[rows])


def _ids(tokens: pa.Array, vocabulary: pa.Array) -> np.ndarray:
    """Places in a vocabulary, int64; -1 for what is not in it, and for what is missing."""
    return pc.fill_null(pc.index_in(tokens, vocabulary), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _checked(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint that has everything and is of one piece. Raises CheckpointError."""
    wanted = {"model": str, "config": dict, "vocabulary": dict, "state_dict": dict, "other_parameter": object}
    for key, kind in wanted.items():
        if not isinstance(content.get(key), kind):
            raise checkpoint.CheckpointError(f"{path} has no '{key}', as a checkpoint of ours does: it was changed")
    serving = content.get("serving")
    if not isinstance(serving, dict):
        raise checkpoint.CheckpointError(
            f"{path} is of a version that kept nothing to recommend with: go on with its run for an epoch, with "
            f"--resume, or train it again"
        )
    for key, kind in {"sizes": dict, "lengths": dict, "types": dict, "item_features": dict}.items():
        if not isinstance(serving.get(key), kind):
            raise checkpoint.CheckpointError(
                f"{path} has no '{key}' to recommend with: it is of another version, or was changed"
            )
    scenes, kinds = serving.get("scenes"), {kind.value for kind in FeatureType}
    if not (scenes is None or isinstance(scenes, list)) or not kinds.issuperset(serving["types"].values()):
        raise checkpoint.CheckpointError(f"{path} does not say of what kind its columns are: it was changed")
    config = content["config"]
    if content["model"] != str(config.get("model", "")).rpartition(":")[2].rpartition(".")[2]:
        raise checkpoint.CheckpointError(
            f"{path} is of {content['model']}, and its configuration of {config.get('model')}: it was changed"
        )
    sizes, item_field = serving["sizes"], config.get("ITEM_ID_FIELD")
    for field in (config.get("USER_ID_FIELD"), item_field):
        tokens = content["vocabulary"].get(field)
        if not isinstance(tokens, list) or len(tokens) != sizes.get(field):
            raise checkpoint.CheckpointError(
                f"{path} has a vocabulary of '{field}' of another size than its model: it was changed"
            )
    counts = serving.get("counts")
    if not isinstance(counts, torch.Tensor) or counts.shape != (sizes[item_field],):
        raise checkpoint.CheckpointError(f"{path} counts other items than its vocabulary has: it was changed")
    for name, value in content["state_dict"].items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise checkpoint.CheckpointError(
                f"{path} has weights that are not numbers, in {name}: the training diverged"
            )
    return content


def _built(path: Path, config: Config, content: dict[str, Any]) -> Any:
    if config["logit_bias"] is not None:
        config["logit_bias"] = "none"  # counted over a data set; the weights have it
    try:
        model = create_model(config, Vocabulary(config, content))
    except _NeedsData as error:
        raise UserError(
            f"{content['model']} reads {error} of its data set, which is not in a checkpoint: it cannot recommend"
        ) from None
    checkpoint.load_weights(path, content, model)
    return model

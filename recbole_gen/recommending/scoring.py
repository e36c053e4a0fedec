"""What a model says of a batch of histories: scores of items and scenes, vectors, and the days of the next event."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_gen.config.config import Config
from recbole_gen.errors import UserError
from recbole_gen.evaluation import calibration
from recbole_gen.recommending.model_input import ModelInput

FORWARD_ARGUMENTS = {
    "item_seq": "ITEM_SEQ", "seq_item": "ITEM_SEQ", "item_seq_len": "ITEM_SEQ_LEN", "seq_item_len": "ITEM_SEQ_LEN",
    "user": "USER_ID",
}  # fmt: skip
"""What the `forward` of RecBole's models takes -> the attribute of the model that names its column."""


class Scorer:
    """Asks one model. Raises UserError for scores that are not numbers, of a model that has diverged."""

    def __init__(self, config: Config, model: Any, model_input: ModelInput, window: calibration.DayWindow | None):
        self.config, self.model, self._window = config, model, window
        self._input, self._n_items = model_input, len(model_input.items)

    @torch.no_grad()
    def item_scores(self, interaction: Interaction, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """[B, n_items], padding first; the caller may write into it.

        allowed: [n_items] bool, the items whose scores are wanted: a model whose search ends before it has come to all
        is asked for these (`score_items`), and has -inf for the others.
        """
        try:
            if allowed is not None and hasattr(self.model, "score_items"):
                scores = self._scores_of(allowed, interaction)
            else:
                scores = self.model.full_sort_predict(interaction).view(-1, self._n_items)
        except KeyError as error:
            raise UserError(
                f"{self.config['model']} reads the column {error} of its data set, which a history does not have"
            ) from None
        self.refuse_nan(scores)
        return scores.clone()

    def _scores_of(self, allowed: torch.Tensor, interaction: Interaction) -> torch.Tensor:
        items = allowed.nonzero().squeeze(1)
        scores = self.model.score_items(interaction, items)
        return scores.new_full((len(scores), self._n_items), -torch.inf).index_copy(1, items, scores)

    @torch.no_grad()
    def scene_scores(self, interaction: Interaction) -> torch.Tensor:
        """[B, n_scenes], -inf for the padding, of a model that predicts scenes."""
        scores = self.model.full_sort_predict_scene(interaction).clone()
        self.refuse_nan(scores)
        scores[:, 0] = -torch.inf
        return scores

    def refuse_nan(self, scores: torch.Tensor) -> None:
        """Raise UserError if any of them is NaN."""
        if torch.isnan(scores).any():
            raise UserError(
                f"{self.config['model']} gives scores that are not numbers: its training has diverged, or one of its "
                f"settings is far from the usual"
            )

    @torch.no_grad()
    def user_vectors(self, interaction: Interaction) -> torch.Tensor:
        """[B, d], of a model with `item_vectors`."""
        if hasattr(self.model, "user_vectors"):
            return self.model.user_vectors(interaction)
        arguments = inspect.signature(self.model.forward).parameters
        columns = [getattr(self.model, FORWARD_ARGUMENTS[name]) for name in arguments]
        return self.model.forward(*(interaction[column] for column in columns)).view(len(interaction), -1)

    @cached_property
    def item_vectors(self) -> torch.Tensor | None:
        """[n_items, d]; None for a model that scores by no inner products.

        Of models that have no `item_vectors`, such as RecBole's: the item table, if it gives the scores of a try.
        """
        if hasattr(self.model, "item_vectors"):
            return self.model.item_vectors().detach()
        table = getattr(self.model, "item_embedding", None)
        if (
            not isinstance(table, torch.nn.Embedding)
            or not inspect.signature(self.model.forward).parameters.keys() <= FORWARD_ARGUMENTS.keys()
        ):
            return None
        items = table.weight.detach()[: self._n_items]
        probe = self._input.random_interaction(8)
        queries, scores = self.user_vectors(probe), self.item_scores(probe)
        if queries.shape[1:] != items.shape[1:] or scores.shape[1] != len(items):
            return None
        return items if torch.allclose(queries @ items.T, scores, rtol=1e-4, atol=1e-5) else None

    def require_item_vectors(self) -> torch.Tensor:
        """`item_vectors`, or a UserError where there are none."""
        if self.item_vectors is None:
            raise UserError(
                f"{self.config['model']} does not score items by inner products with one vector of the user, so there "
                f"are no vectors of items to export or to search: recommend scores all of them"
            )
        return self.item_vectors

    def next_days(self, interaction: Interaction) -> dict[str, np.ndarray]:
        """when, from, until: dates [B], of a model that predicts times; see `Recommender.when`."""
        predicted = self.model.when(interaction)
        last = self.model.last_day(interaction).cpu().numpy()
        day, earliest, latest = (part.cpu().numpy() for part in predicted)
        if self._window is not None:
            earliest, latest = self._window.around(day, last)
            day = np.clip(day, earliest, latest)  # where the true days are all later than said, or all earlier
        return {
            name: days.astype("datetime64[D]").astype("datetime64[s]")
            for name, days in (("when", day), ("from", earliest), ("until", latest))
        }

    def reads_users(self) -> bool:
        """Whether the model reads who a user is; found out by not telling it."""
        user_field, probe = self.config["USER_ID_FIELD"], self._input.random_interaction(1)
        rest = {field: value for field, value in probe.interaction.items() if field != user_field}
        try:
            self.item_scores(Interaction(rest))
        except UserError as error:
            if f"'{user_field}'" in str(error):
                return True
            raise
        return False

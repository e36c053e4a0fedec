"""What a reproduction finds, as plain data that a JSON file holds, and what the verdict on it is. Nothing large is
imported: the list of all settings reads these files, too."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_gen.errors import UserError
from recbole_gen.files import read_json, write_output

VERSION = 1
"""Of the JSON file's form."""
VERDICTS = (
    "The standard error over the users is that of the metric of one run over the users of the test set: the standard "
    "deviation of the users' values divided by the square root of their number (of users with several rows, that of a "
    "ratio of sums), as a root mean square over the seeds. A difference to the published number is measured in the "
    "combined standard error: the root of the sum of the squares of it, of the standard deviation over the seeds, and "
    "of that over orders of simultaneous events, of those that there are. Verdict: `above` where ours is more than one "
    "of these above the published number, `reached` where it is not more than one below it, `below` otherwise. A "
    "setting is `below` if one of its metrics is, else `above` if all are, else `reached`."
)
ABOVE, REACHED, BELOW = "above", "reached", "below"


@dataclass(frozen=True)
class Measured:
    """A metric of a model over its seeds, as fractions.

    Attributes:
        mean, values: over the seeds, and of each of them, in the order of the model's seeds.
        sd: over the seeds (ddof=1), None with one seed.
        users_error: the standard error over the users of the test set of one run, see VERDICTS.
        ties_sd: over orders of simultaneous events, None without such runs.
    """

    mean: float
    sd: float | None
    users_error: float
    values: list[float]
    ties_sd: float | None = None

    @property
    def error(self) -> float:
        """The combined standard error, see VERDICTS."""
        return math.hypot(self.users_error, self.sd or 0.0, self.ties_sd or 0.0)


@dataclass(frozen=True)
class ModelResult:
    """One model of the table, with all of its runs: ``measured`` has the published metrics by their names, ``epochs``
    and ``train_seconds`` are means over the seeds."""

    label: str
    model: str
    seeds: list[int]
    measured: dict[str, Measured]
    parameters: float | None = None
    epochs: float | None = None
    train_seconds: float | None = None


@dataclass(frozen=True)
class Reproduction:
    """A published setting and its baselines beside what the paper prints. Numbers are fractions.

    Attributes:
        name, label: the setting's, and that of its model among ``models``.
        decimals: as many decimal places of the fractions are printed in the paper.
        metrics: as the paper's table has them, such as Hit@5.
        published, published_sd: row of the table -> metric -> number.
        models: the setting's model first.
        counted: what each run has counted on the same rows, such as Pop -> metric -> number.
        changed: settings in which the runs differ from the published one, as text.
        left_out, failed: label or run -> why.
        facts: versions, commit and such, as (title, text).
        is_quick: whether the sizes were cut for a first look.
        against: heads and lines of the baselines' paired tests against the setting's model.
    """

    name: str
    label: str
    paper: str
    table: str
    decimals: int
    dataset: str
    protocol: str
    users: int
    rows: int
    metrics: list[str]
    published: dict[str, dict[str, float]]
    published_sd: dict[str, dict[str, float]]
    models: list[ModelResult]
    counted: dict[str, dict[str, float]]
    changed: list[str]
    about: str
    notes: list[str]
    facts: list[list[str]]
    command: str
    is_quick: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    against: list[list[str]] = field(default_factory=list)

    @property
    def own(self) -> ModelResult:
        """The published setting's model."""
        return next(model for model in self.models if model.label == self.label)

    def difference(self, model: ModelResult, metric: str) -> float | None:
        """Ours minus the published number, None where the paper has none."""
        published = self.published.get(model.label, {}).get(metric)
        return None if published is None else model.measured[metric].mean - published


def verdict(difference: float, error: float) -> str:
    """One of `above`, `reached`, `below`; see VERDICTS."""
    if difference > error:
        return ABOVE
    return REACHED if difference >= -error else BELOW


def verdicts(found: Reproduction, model: ModelResult) -> dict[str, str]:
    """Metric -> verdict, for those that the paper has for this model."""
    differences = {metric: found.difference(model, metric) for metric in found.metrics}
    return {
        metric: verdict(difference, model.measured[metric].error)
        for metric, difference in differences.items()
        if difference is not None
    }


def overall_verdict(found: Reproduction) -> str:
    """The verdict on the setting, see VERDICTS."""
    given = set(verdicts(found, found.own).values())
    return BELOW if BELOW in given else ABOVE if given == {ABOVE} else REACHED


def write_result(found: Reproduction, path: Path) -> None:
    """Write the JSON file of a reproduction; equal ones give equal bytes. Raises UserError if it cannot be written."""
    content = {"version": VERSION, **dataclasses.asdict(found)}
    write_output(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_result(path: Path) -> Reproduction | None:
    """The content of such a file; None if there is none. Raises UserError for another one."""
    if not path.exists():
        return None
    content = read_json(path)
    try:
        if content.pop("version") != VERSION:
            raise ValueError
        models = [_read_model(each) for each in content.pop("models")]
        return Reproduction(models=models, **content)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not the result of `reproduce` as this version writes it: make it again") from None


def _read_model(content: dict[str, Any]) -> ModelResult:
    measured = {metric: Measured(**each) for metric, each in content.pop("measured").items()}
    return ModelResult(measured=measured, **content)

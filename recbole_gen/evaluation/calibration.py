"""How far predicted days are from the true ones: the window to deliver in, and what it is worth beside two guesses.

The window around a predicted day is that in which LEVEL of the true days have been for the validation rows (split
conformal prediction: quantiles of the errors, at the rank (n + 1) p); its coverage is that of the test rows. The
guesses get windows in the same way: ``persistence`` says the day of the last interaction, ``constant`` the time whose
encoding is closest on average to those of the training rows, and not before that day.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from recbole_gen.errors import UserError
from recbole_gen.files import read_json
from recbole_gen.model.day_search import SEARCHED_DAYS

WINDOWS_FILE = "when.json"
LEVEL = 0.8
"""Share of the true days that shall lie in a window."""
MIN_ROWS, MAX_ROWS = 20, 100_000
"""Of fewer validation rows nothing is said; of more of either part, the first ones are measured."""
MAX_COMPARED = 1 << 30
"""Rows of a part times days that are searched for each: of a log over decades fewer rows are measured."""
GUESSES = ("persistence", "constant")


@dataclass(frozen=True)
class DayWindow:
    """Days before and after a predicted day, negative ``before`` for a window that begins later.

    Attributes:
        report: what was measured, as `measure_windows` returns it.
    """

    lower: int
    upper: int
    report: dict[str, Any]

    def around(self, day: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last day of each window; none begins before the last interaction."""
        return np.maximum(day + self.lower, last), np.maximum(day + self.upper, last)

    def describe(self) -> str:
        """In words, with what it means where a guess is as good."""
        report, model = self.report, self.report["model"]
        lines = [
            f"windows of {_median_days(model)} (median): {model['coverage']:.1%} of the true days of "
            f"{report['test_rows']:,} test rows lie inside, {report['level']:.0%} were aimed at; interval score "
            f"{model['score']:.2f}"
        ]
        for name in GUESSES:
            guess = report[name]
            better = "better" if guess["score"] < model["score"] else "as good"
            better = better if guess["score"] <= model["score"] else "worse"
            inside = f"{guess['coverage']:.1%} inside"
            lines.append(f"  {name}: {_median_days(guess)}, {inside}, interval score {guess['score']:.2f}: {better}")
        if any(report[name]["score"] <= model["score"] for name in GUESSES):
            lines.append(
                "  On this data a guess that learns nothing times messages as well. Do not rely on these times."
            )
        return "\n".join(lines)


def _median_days(measured: dict[str, Any]) -> str:
    return f"{measured['median_width']:.0f} day{'' if measured['median_width'] == 1 else 's'}"


def read_window(path: Path) -> DayWindow | None:
    """The window of a run, or None where none was measured. Raises UserError for a damaged file."""
    if not path.exists():
        return None
    report = read_json(path)
    try:
        lower, upper = report["model"]["lower"], report["model"]["upper"]
        numbers = [report["level"], report["test_rows"], lower, upper]
        numbers += [report[name][key] for name in ("model", *GUESSES) for key in ("coverage", "median_width", "score")]
        if not all(isinstance(each, (int, float)) and math.isfinite(each) for each in numbers) or lower > upper:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged: remove it, and times come without windows") from None
    return DayWindow(int(lower), int(upper), report)


def measure_windows(model, train_rows, valid, test) -> dict[str, Any] | None:
    """Windows from the rows of one loader, and their worth on those of another; None for too few rows.

    Args:
        model: predicts times, in evaluation mode.
        train_rows: the rows of training, for the constant.
        valid, test: loaders.
    """
    constant = mean_direction(model.time_encoding, train_rows[model.TOI])
    fitted, tested = (predicted_days(model, loader, constant) for loader in (valid, test))
    if len(fitted["true"]) < MIN_ROWS or not len(tested["true"]):
        return None
    report: dict[str, Any] = {"level": LEVEL, "valid_rows": len(fitted["true"]), "test_rows": len(tested["true"])}
    for name in ("model", *GUESSES):
        errors = np.sort(fitted["true"] - fitted[name])
        lower, upper = _conformal_quantile(errors, (1 - LEVEL) / 2), _conformal_quantile(errors, (1 + LEVEL) / 2)
        first = np.maximum(tested[name] + lower, tested["last"])
        last = np.maximum(tested[name] + upper, tested["last"])
        report[name] = {
            "lower": int(lower), "upper": int(upper), **_window_scores(first, last, tested["true"]),
            "mean_error": float(np.abs(tested["true"] - tested[name]).mean()),
        }  # fmt: skip
    return report


def _conformal_quantile(ordered: np.ndarray, p: float) -> int:
    n = len(ordered)
    place = math.floor(p * (n + 1)) if p < 0.5 else math.ceil(p * (n + 1))
    return int(ordered[min(max(place, 1), n) - 1])


def _window_scores(first: np.ndarray, last: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Coverage, width, and the interval score of Gneiting and Raftery (2007, eq. 43), in days: smaller is better."""
    early, late = np.maximum(first - true, 0), np.maximum(true - last, 0)
    width = last - first + 1
    return {
        "coverage": float(((early == 0) & (late == 0)).mean()),
        "median_width": float(np.median(width)),
        "score": float((width + 2 / (1 - LEVEL) * (early + late)).mean()),
    }


@torch.no_grad()
def predicted_days(model, loader, constant: torch.Tensor) -> dict[str, np.ndarray]:
    """Days since 1970, one a row: true, last (interaction before it), and as model, persistence and constant say."""
    device = next(model.parameters()).device
    first, last = model.day_range.tolist()
    most = min(MAX_ROWS, MAX_COMPARED // min(last - first, SEARCHED_DAYS))
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("true", "last", "model", *GUESSES)}
    for batch in loader:
        interaction = batch[0][:most].to(device)
        last_day = model.last_day(interaction)
        _, tau_hat = model.represent(interaction)
        said = model.decode(tau_hat, last_day).day
        still, true = constant_days(model, constant, last_day), model.day_of(interaction[model.TOI])
        for name, values in zip(parts, (true, last_day, said, last_day, still), strict=True):
            parts[name].append(values.cpu())
        if sum(map(len, parts["true"])) >= most:
            break
    return {
        name: torch.cat(values)[:most].numpy() if values else np.empty(0, np.int64) for name, values in parts.items()
    }


def constant_days(model, constant: torch.Tensor, last_day: torch.Tensor, horizon: int = 365) -> torch.Tensor:
    """Days that a constant encoding [d] says after the last interactions on these days, [B]."""
    days, of_row = last_day.unique(return_inverse=True)  # all that the answer depends on
    return model.decode(constant.to(days.device).expand(len(days), -1), days, horizon).day[of_row]


def mean_direction(encode, toi: torch.Tensor) -> torch.Tensor:
    """The unit vector with the highest mean cosine with the encodings of times [n]; [d]."""
    times, counts = toi.unique(return_counts=True)
    total = torch.zeros(encode.size, dtype=torch.float64)
    device = next(encode.buffers(), torch.zeros(0)).device
    for t, n in zip(times.split(4096), counts.split(4096), strict=True):
        total += (F.normalize(encode(t.double().to(device)), dim=-1).cpu() * n.unsqueeze(-1)).sum(0)
    return F.normalize(total, dim=0)

"""`plot toi`: the accuracy of predicted times; PASRec section 5.5, figure 5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate

from recbole_gen import figures
from recbole_gen.errors import UserError
from recbole_gen.evaluation.calibration import constant_days, mean_direction
from recbole_gen.files import write_json
from recbole_gen.plot import run_selection
from recbole_gen.quick_start import LoadedRun, load

# Okabe and Ito's colours, which stay apart for colour-blind readers, and line styles that stay apart in print.
STYLES = {
    "model": ("#0072B2", "-"),
    "persistence": ("#D55E00", "-."),  # after the model, which it often coincides with
    "constant": ("#009E73", "--"),
    "random row": ("#999999", ":"),
}
LEVELS = (0.95, 0.99)
WITHIN = (1, 7, 30)


def draw(options: dict[str, Any]) -> None:
    """The figure `toi`. Raises UserError for bad input."""
    if not isinstance(options["run"], str):
        raise UserError("plot toi needs --run=FOLDER, the folder of a run of PASRec")
    if options["part"] not in ("test", "valid"):
        raise UserError(f"--part must be test or valid, got {options['part']!r}")
    if not (isinstance(options["horizon"], int) and options["horizon"] >= 0):
        raise UserError(f"--horizon must be a whole number of days, got {options['horizon']!r}")
    if not (isinstance(options["noise"], (int, float)) and 0 <= options["noise"] <= 1):
        raise UserError(f"--noise must be from 0 to 1, got {options['noise']!r}")
    output = run_selection.output_path(options, [Path(options["run"])], f"toi.{options['part']}", [".json"])
    run = load(options["run"], options["model"])
    rows = toi_rows(run, options["part"], options["horizon"], options["noise"])
    summary = toi_summary(rows)
    print(toi_table(run, options["part"], summary))
    written = figures.save_figure(draw_toi(run, options["part"], rows), output)
    try:
        write_json(output.with_suffix(".json"), summary)
    except OSError as error:
        raise UserError(f"the table {output.with_suffix('.json')} cannot be written: {error}") from None
    print(f"drawn in {' and '.join(map(str, written))}")


@torch.no_grad()
def toi_rows(run: LoadedRun, part: str, horizon: int, noise: float) -> dict[str, dict[str, np.ndarray]]:
    """For the model and each baseline: `cosine` with the true time's encoding and `error` in days, one value a row.

    ``persistence`` says the time of the last interaction, ``constant`` the direction that is closest on average to the
    targets of the training rows, ``random row`` the time of another row. The model has `width` too: how many days its
    answer cannot be told from (see `PASRec.decode`).

    Raises UserError for a run of a model that predicts no times.
    """
    model, loader = run.model, getattr(run, part)
    if not (hasattr(model, "when") and getattr(model, "uses_time", False)):
        raise UserError(f"{run.config['model']} predicts no times: plot toi is for runs of PASRec")
    encode = model.time_encoding
    first, last = (int(day) for day in model.day_range)
    constant = mean_direction(encode, run.train._dataset.inter_feat[model.TOI])
    device = next(model.parameters()).device
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in loader:
        interaction = batch[0].to(device)
        toi = interaction[model.TOI]
        true, last_day = model.day_of(toi), model.last_day(interaction)
        _, tau_hat = model.represent(interaction)
        spread = constant.to(tau_hat).expand_as(tau_hat)
        when = model.decode(tau_hat, last_day, horizon, noise)
        tau = encode(toi)
        t_last = (last_day - first).double() / (last - first)
        for name, predicted, day in (
            ("model", tau_hat, when.day),
            ("persistence", encode(t_last.to(toi)), last_day),
            ("constant", spread, constant_days(model, constant, last_day, horizon)),
        ):
            parts.setdefault(f"{name} cosine", []).append(F.cosine_similarity(predicted, tau, dim=-1))
            parts.setdefault(f"{name} error", []).append((day - true).abs())
        parts.setdefault("model width", []).append(when.latest - when.earliest + 1)
        parts.setdefault("toi", []).append(toi)
    joined = {name: torch.cat(values) for name, values in parts.items()}
    toi = joined.pop("toi").cpu()
    other = toi[torch.randperm(len(toi), generator=torch.Generator().manual_seed(run.config["seed"]))]
    joined["random row cosine"] = torch.cat(
        [
            F.cosine_similarity(encode(a.to(device)), encode(b.to(device)), dim=-1)
            for a, b in zip(other.split(4096), toi.split(4096), strict=True)
        ]
    )
    joined["random row error"] = ((other - toi).double().abs() * (last - first)).round()
    out: dict[str, dict[str, np.ndarray]] = {}
    for key, values in joined.items():
        name, _, what = key.rpartition(" ")
        out.setdefault(name, {})[what] = values.double().cpu().numpy()
    return out


def toi_summary(rows: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """Of each predictor: rows, mean and quantiles of the cosine, shares above .95 and .99, and errors in days."""
    out: dict[str, dict[str, float]] = {}
    for name in ("model", "persistence", "constant", "random row"):
        cosine, error = rows[name]["cosine"], rows[name]["error"]
        line: dict[str, Any] = {"rows": len(cosine), "cosine_mean": cosine.mean()}
        line |= {f"cosine_q{q:02d}": np.quantile(cosine, q / 100) for q in (5, 50, 95)}
        line |= {f"cosine_above_{level}": (cosine > level).mean() for level in LEVELS}
        line |= {"mae_days": error.mean(), "median_days": np.median(error)}
        line |= {f"within_{days}": (error <= days).mean() for days in WITHIN}
        if "width" in rows[name]:
            line["median_width_days"] = np.median(rows[name]["width"])
        out[name] = {key: float(value) for key, value in line.items()}
    return out


def toi_table(run: LoadedRun, part: str, summary: dict[str, dict[str, float]]) -> str:
    """The summary for people, with what it means to be worse than a baseline."""
    config = run.config
    names = {"model": config["model"], "random row": "time of another row"}
    columns = [key for key in summary["persistence"] if key != "rows"]
    body = [[names.get(name, name), *(line[key] for key in columns)] for name, line in summary.items()]
    heads = [key.replace("_", " ").replace("cosine above", "cos >").replace("within", "days <=") for key in columns]
    model, persistence, constant = summary["model"], summary["persistence"], summary["constant"]
    notes = [
        f"{int(model['rows'])} {part} rows of {config['dataset']}, {config['protocol']}; encoding "
        f"{config['time_encoding']}; days {np.datetime64(int(run.model.day_range[0]), 'D')} to "
        f"{np.datetime64(int(run.model.day_range[1]), 'D')}, range of {config['time_range']} interactions",
        f"days that a decoded day of the model cannot be told from, itself included: {model['median_width_days']:.0f} "
        f"(median)",
    ]
    for name, other in (("persistence", persistence), ("the constant", constant)):
        better = [text for key, text in (("mae_days", "mean"), ("median_days", "median")) if model[key] < other[key]]
        notes.append(f"error in days smaller than that of {name}: {' and '.join(better) or 'neither mean nor median'}")
    return "\n".join([tabulate(body, headers=["", *heads], floatfmt=".3f"), *notes])


def draw_toi(run: LoadedRun, part: str, rows: dict[str, dict[str, np.ndarray]]):
    """Two panels: shares of rows by cosine (the paper's figure 5) and by error in days."""
    figure, (left, right) = figures.new_figure(2)
    names = {"model": run.config["model"], "random row": "time of another row"}
    for name, (colour, style) in STYLES.items():
        look = {"color": colour, "linestyle": style, "label": names.get(name, name), "linewidth": 2}
        left.ecdf(rows[name]["cosine"], complementary=True, **look)
        right.ecdf(rows[name]["error"], **look)
    left.axvline(LEVELS[0], color="black", linewidth=0.8)
    left.set_xlabel("cosine of predicted and true time encoding, at least")
    lowest = min(np.percentile(rows[name]["cosine"], 1) for name in STYLES)
    left.set_xlim(max(lowest, -1) - 0.01 * (1 - lowest), 1 + 0.01 * (1 - lowest))
    right.set_xscale("symlog", linthresh=1)
    right.set_xlim(left=0)
    right.set_xticks([0, 1, 7, 30, 365, 3650], ["0", "1", "7", "30", "1 year", "10 years"])
    right.minorticks_off()
    right.set_xlabel("error in days, at most")
    for axes in (left, right):
        axes.set_ylim(0, 1.01)
        axes.set_ylabel("share of rows")
        axes.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    config = run.config
    figure.suptitle(
        f"Time of interest: {config['dataset']}, {config['protocol']}, {part} rows, {config['time_encoding']} encoding"
    )
    return figure

"""`plot schedules`: signal level of noise schedules by step; DiffRec section 5.3.1, figure 2 (left)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from tabulate import tabulate

from recbole_gen import figures
from recbole_gen.config.config import Config
from recbole_gen.data.loaders import build_dataset, create_loaders
from recbole_gen.errors import UserError
from recbole_gen.model.diffusion import LEVEL_SCHEDULES, SCHEDULES, GaussianDiffusion, beta_schedule, level_schedule
from recbole_gen.plot import run_selection

STYLES = dict(zip(dict.fromkeys((*SCHEDULES, *LEVEL_SCHEDULES)), itertools.cycle(("-", "--", "-.", ":"))))
FAMILIES = {
    "DreamRec, PASRec, PreferDiff": (beta_schedule, SCHEDULES),
    "DiffRec": (level_schedule, LEVEL_SCHEDULES),
}
"""The two families of schedules, by the models that use them."""
TIMESTEPS = 1000  # of DiffRec figure 2

Levels = dict[str, np.ndarray]


def draw(options: dict[str, Any]) -> None:
    """The figure `schedules`. Raises UserError for bad input."""
    output = run_selection.output_path(options, [], "schedules")
    names = _schedule_names(options["schedules"])
    settings = {key: options[key] for key in ("timesteps", "beta_start", "beta_end") if options[key] is not None}
    for key, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int if key == "timesteps" else (int, float)):
            raise UserError(f"--{key} must be a number, got {value!r}")
    if options["model"] is None:
        panels = family_levels(names, **settings)
    else:
        title, levels = model_levels(str(options["model"]), str(options["dataset"]), names, settings)
        panels = {title: levels}
    print(schedule_table(panels))
    written = figures.save_figure(draw_schedules(panels), output)
    print(f"drawn in {' and '.join(map(str, written))}")


def _schedule_names(given: Any) -> list[str] | None:
    if given is None:
        return None
    names = [str(name) for name in given] if isinstance(given, list) else str(given).replace(",", " ").split()
    for name in names:
        if name not in SCHEDULES:
            near = run_selection.suggestion(name, SCHEDULES)
            raise UserError(f"there is no noise schedule '{name}'{near}; there are: {', '.join(SCHEDULES)}")
    return list(dict.fromkeys(names))


def family_levels(names: list[str] | None = None, timesteps: int = TIMESTEPS, **betas: float) -> dict[str, Levels]:
    """alphas_cumprod, [T] each, of the named schedules (None: all) in both families, by family and name.

    Raises UserError for ``timesteps`` below 2, and for noise rates outside of (0, 1).
    """
    return {
        family: {
            name: GaussianDiffusion(make(name, timesteps, **betas)).alphas_cumprod.numpy()
            for name in known
            if names is None or name in names
        }
        for family, (make, known) in FAMILIES.items()
        if names is None or set(names) & set(known)
    }


def model_levels(
    model: str, dataset: str, names: list[str] | None = None, settings: dict[str, Any] | None = None
) -> tuple[str, Levels]:
    """alphas_cumprod, [T] each, that the model itself has with each of the named schedules (None: all it knows), and
    its name with its own schedule.

    Raises UserError for a model without diffusion, and for settings that it refuses.
    """
    config = Config(model=model, dataset=dataset, config_dict=settings)
    if config["noise_schedule"] is None:
        raise UserError(f"{config['model']} has no noise schedule: plot schedules is for models of diffusion")
    own = config["noise_schedule"]
    data, parts = build_dataset(config)
    train, _, _ = create_loaders(config, data, parts)
    levels, refused = {}, None
    for name in names or SCHEDULES:
        config["noise_schedule"] = name
        try:
            levels[name] = config.model_class(config, train._dataset).diffusion.alphas_cumprod.cpu().numpy()
        except UserError as error:
            if names:
                raise
            refused = error  # one that this model does not know
    if not levels:
        raise refused or UserError(f"{config['model']} has no noise schedule")
    return f"{config['model']} (default: {own})", levels


def schedule_table(panels: dict[str, Levels]) -> str:
    """Signal level and signal-to-noise ratio at the first, the middle and the last step, for people."""
    body = []
    for title, levels in panels.items():
        for name, level in levels.items():
            middle = len(level) // 2
            half = int(np.searchsorted(-level, -0.5)) + 1 if level[-1] <= 0.5 else None
            body.append([title, name, len(level), level[0], level[middle - 1], level[-1], half])
    heads = ["", "schedule", "steps", "abar, step 1", "step T/2", "step T", "first step below 0.5"]
    return tabulate(body, headers=heads, floatfmt=".4g", missingval="-")


def draw_schedules(panels: dict[str, Levels]):
    """A panel for each entry: alphas_cumprod over the step, 1 to T. Lower is noisier."""
    figure, axes = figures.new_figure(len(panels), sharey=True, squeeze=False)
    for panel, (title, levels) in zip(axes.flat, panels.items(), strict=True):
        for name, level in levels.items():
            colour = figures.COLOURS[SCHEDULES.index(name)]
            steps = np.arange(1, len(level) + 1)
            panel.plot(steps, level, color=colour, linestyle=STYLES[name], linewidth=2, label=name)
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.set_xlim(0, len(level) * 1.01)
        panel.set_ylim(-0.02, 1.02)
        panel.grid(alpha=0.3)
    axes.flat[0].set_ylabel(r"signal level $\bar{\alpha}$")
    handles = {label: line for panel in axes.flat for line, label in zip(*panel.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure

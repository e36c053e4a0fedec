"""The result of a run for people."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from recbole_gen.evaluation.diagnostics import worth_a_line
from recbole_gen.evaluation.ranking import EXTRA_TASKS

BASELINES = ("Pop", "Transitions")
"""Models that the diagnostics of every run have beside its own, under their names in lower case."""


def describe_result(result: dict[str, Any]) -> str:
    """Test result and diagnostics as a table for people."""
    test, diagnostics = result["test_result"], result["diagnostics"]
    if not test:
        return "no test result"
    model = result["model"]
    rows: list[list[Any]] = []
    for task, values in _metrics_by_task(test).items():
        rows.append([f"{model}, test" + (f", {EXTRA_TASKS[task]}" if task else ""), None, values])
    names = list(dict.fromkeys(name for _, _, values in rows for name in values))
    rows.append([f"{model}, best valid", None, result["best_valid_result"]])
    notes = []
    if diagnostics:
        rows[0][1] = diagnostics["rows"]
        # A baseline's own run would have its rows twice.
        beside = [name for name in BASELINES if name != model and name.lower() in diagnostics]
        rows += [[f"{name}, test", diagnostics["rows"], diagnostics[name.lower()]] for name in beside]
        trained, lists = diagnostics["trained_items_only"], diagnostics["lists"]
        keys = [(model, "model"), *((name, name.lower()) for name in beside)]
        rows += [[f"{name}, trained items only", trained["rows"], trained[key]] for name, key in keys]
        if result.get("config", {}).get("cold_items") or worth_a_line(diagnostics.get("cold_targets")):
            for name in ("warm", "cold"):
                if values := diagnostics.get(f"{name}_targets"):
                    rows.append([f"{model}, {name} targets", values["rows"], values])
        if unseen := diagnostics.get("history_not_ranked"):
            rows += [[f"{name}, history not ranked", diagnostics["rows"], unseen[key]] for name, key in keys]
            if lost := unseen.get("targets_in_history"):
                notes.append(
                    f"history not ranked: {lost:,} of {unseen['targets']:,} targets ({lost / unseen['targets']:.1%}) "
                    f"are items of the history, and cannot be hit without it"
                )
        groups = [key for key in ("with_history", "without_history") if key in diagnostics]
        if "without_history" in groups:  # else the one row would repeat the first
            for key in groups:
                rows.append([f"{model}, rows {key.replace('_', ' ')}", diagnostics[key]["rows"], diagnostics[key]])
        for name, values in diagnostics.get("groups", {}).items():
            least, most = values["history"]
            rows.append([f"{model}, {name} ({least} to {most} before)", values["rows"], values])
        if diagnostics["tied_rows"]:
            notes.append(
                f"ties: in {diagnostics['tied_rows']} of {diagnostics['rows']} rows another item has the score of the "
                f"target; a permutation of the items, drawn by the seed, decides which is first"
            )
        overlap = "-" if lists["mean_overlap"] is None else f"{lists['mean_overlap']:.2f}"
        hits = "none" if lists["untrained_hit_share"] is None else f"{lists['untrained_hit_share']:.1%}"
        notes.append(
            f"top-{lists['length']} lists: {lists['distinct_items']} distinct items; two lists share {overlap} of "
            f"{lists['length']} on average; {lists['untrained_share']:.1%} of the places go to the "
            f"{lists['untrained_items']} items that never occur in training, and {hits} of the hits"
        )
        if "scene" in diagnostics:
            scene = diagnostics["scene"]
            notes.append(
                f"next scene: {scene['last_again']:.1%} of {scene['rows']} are the last scene again, "
                f"{scene['most_common']:.1%} the most common one"
            )
        if "latent" in diagnostics:
            notes.append("latent: " + ", ".join(f"{k} {v:.3g}" for k, v in diagnostics["latent"].items()))
        if "item_table" in diagnostics:
            notes.append("item table: " + ", ".join(f"{k} {v:.3g}" for k, v in diagnostics["item_table"].items()))
    body = [[title, n, *((values or {}).get(name) for name in names)] for title, n, values in rows]
    table = tabulate(body, headers=["", "rows", *names], floatfmt=".4f", missingval="-")
    seconds = result["seconds"]
    memory = ", ".join(f"{size} MiB ({where})" for where, size in result["peak_memory_mib"].items())
    notes.append(
        f"best epoch {result['best_epoch'] + 1} of {result['epochs']}; load {seconds['load']} s, "
        f"train {seconds['train']} s, test {seconds['test']} s; peak memory {memory}"
    )
    notes.append(f"everything is in {result['run_dir']}")
    return "\n".join([table, *notes])


def _metrics_by_task(result: dict[str, float]) -> dict[str, dict[str, float]]:
    """Metrics by the prefix of their names, such as `scene` of scene_recall@5; the run's own have none."""
    tasks: dict[str, dict[str, float]] = {}
    for name, value in result.items():
        task, _, metric = name.rpartition("_")
        tasks.setdefault(task, {})[metric] = value
    return tasks

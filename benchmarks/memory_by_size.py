"""How much of (last item -> next item) vectors of size d can hold: ridge regressions, and runs of models, by d.

    python benchmarks/memory_by_size.py --data_path=FOLDER --dataset=prefdiff-beauty
    python benchmarks/memory_by_size.py --dataset=prefdiff-beauty --no_ridge=1 --runs="RUN_FOLDER ..."

A ridge regression learns nothing but a linear map, from a frozen N(0, 1) vector of the last item to that of the target;
its weight is chosen by H@5 of the validation rows. It is fitted to one pair a user, as PreferDiff's code trains, and to
every pair of a user. Runs are folders of `recbole-gen run` on the same split files: their H@5 on the test rows by
hidden_size. Appends to results/memory_by_size.tsv, and draws docs/figures/memory-by-size (PNG and SVG) from all of it.
"""

import json
import sys
from pathlib import Path

import pandas as pd
import torch

SIZES = (32, 64, 128, 256, 512, 1024, 2048)
WEIGHTS = (1.0, 10.0, 100.0, 1000.0)
FIGURE = Path(__file__).parents[1] / "docs/figures/memory-by-size.svg"
PAIRS = {"last": "one pair a user", "prefixes": "every pair of a user"}


def last_items_and_targets(part) -> tuple[torch.Tensor, torch.Tensor]:
    from recbole_gen.data.rows import training_pairs_of_items

    return training_pairs_of_items(part.inter_feat, "item_id", "item_id_list", "item_length")


def load(dataset: str, data_path: str, train_pairs: str):
    from recbole_gen.config.config import Config
    from recbole_gen.data.loaders import create_dataset

    values = {"data_path": data_path, "protocol": "benchmark", "train_pairs": train_pairs, "state": "ERROR"}
    data = create_dataset(Config("PreferDiff", dataset, config_dict=values))
    return data.item_num, [last_items_and_targets(part) for part in data.build()]


def hit_at_5(map_of_last: torch.Tensor, vectors: torch.Tensor, last: torch.Tensor, target: torch.Tensor) -> float:
    hits = []
    for some, wanted in zip(last.split(512), target.split(512), strict=True):
        scores = vectors[some] @ map_of_last @ vectors.T
        scores[:, 0] = -torch.inf
        above = (scores > scores.gather(1, wanted.unsqueeze(1))).sum(1)
        hits.append(above < 5)
    return torch.cat(hits).double().mean().item()


def ridge(n_items: int, parts, size: int, seed: int) -> tuple[float, float]:
    """H@5 of the ridge regression on the validation and the test rows."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n_items, size, generator=generator)
    (last, target), valid, test = parts
    x, y = vectors[last], vectors[target]
    gram, moment = x.T @ x, x.T @ y
    maps = [torch.linalg.solve(gram + weight * torch.eye(size), moment) for weight in WEIGHTS]
    return max((hit_at_5(each, vectors, *valid), hit_at_5(each, vectors, *test)) for each in maps)


def runs_of(folders: list[str]):
    for folder in folders:
        result = json.loads((Path(folder) / "result.json").read_text())
        yield result["config"], result


def draw(table: pd.DataFrame) -> list[Path]:
    from recbole_gen.figures import new_figure, save_figure, series_style

    figure, axes = new_figure(width=6.5, height=4.2)
    for number, (name, lines) in enumerate(table.groupby("what", sort=False)):
        means = lines.groupby("d")["test_hit@5"].mean() * 100
        axes.plot(means.index, means.values, label=name, **series_style(number))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(table["d"].unique()), [str(d) for d in sorted(table["d"].unique())])
    axes.set_xlabel("size of the vectors, d")
    axes.set_ylabel("H@5 on the test rows, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, FIGURE)


def main():
    from common import RESULTS, record

    given = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    dataset = given.get("dataset", "prefdiff-beauty")
    for train_pairs, what in PAIRS.items() if "no_ridge" not in given else ():
        n_items, parts = load(dataset, given["data_path"], train_pairs)
        for size in SIZES:
            valid, test = ridge(n_items, parts, size, seed=2020)
            row = {"data_set": dataset, "what": f"ridge, {what}", "d": size, "seed": 2020}
            record("memory_by_size", row | {"valid_hit@5": round(valid, 4), "test_hit@5": round(test, 4), "epochs": ""})
    for config, result in runs_of(given.get("runs", "").split()):
        row = {"data_set": config["dataset"], "what": f"{config['model']}, {PAIRS['prefixes']}"}
        row |= {"d": config["hidden_size"], "seed": config["seed"]}
        valid, test = result["best_valid_result"]["hit@5"], result["test_result"]["hit@5"]
        record("memory_by_size", row | {"valid_hit@5": valid, "test_hit@5": test, "epochs": result["epochs"]})
    table = pd.read_csv(RESULTS / "memory_by_size.tsv", sep="\t")
    for file in draw(table[table["data_set"] == dataset]):
        print(f"written: {file}")


if __name__ == "__main__":
    main()

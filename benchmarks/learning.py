"""What the models learn on ml-100k, over several seeds: beside popularity, and beside themselves with shuffled items.

    python benchmarks/learning.py [--models=DreamRec,DiffRec,PASRec,PreferDiff,SASRec] [--seeds=2020,2021,2022] [...]

Each model runs with its defaults under leave_one_out, once on ml-100k and once on a copy whose training items are dealt
out anew among the training interactions: the same popularity, validation and test, but nothing to learn from the
order. --no_shuffled leaves that out. Appends to results/learning.tsv; one process, one thread a run.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import recbole
from common import record

from recbole_gen.quick_start import run


def write_shuffled(folder, seed):
    log = pd.read_csv(Path(recbole.__file__).parent / "dataset_example/ml-100k/ml-100k.inter", sep="\t")
    log = log.sort_values("timestamp:float", kind="stable")
    trains = log.groupby("user_id:token").cumcount(ascending=False) >= 2
    items = log["item_id:token"].to_numpy(copy=True)
    items[trains] = np.random.default_rng(seed).permutation(items[trains])
    folder.mkdir(parents=True, exist_ok=True)
    log.assign(**{"item_id:token": items}).to_csv(folder / "ml-100k.inter", sep="\t", index=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="DreamRec,DiffRec,PASRec,PreferDiff,SASRec")
    parser.add_argument("--seeds", default="2020,2021,2022")
    parser.add_argument("--no_shuffled", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in map(int, args.seeds.split(",")):
            write_shuffled(Path(folder) / "data/ml-100k", seed)
            for model in args.models.split(","):
                for data in ("real",) if args.no_shuffled else ("real", "shuffled"):
                    settings = {"seed": seed, "num_threads": 1, "show_progress": False, "state": "WARNING"}
                    settings["checkpoint_dir"] = f"{folder}/saved"
                    if data == "shuffled":
                        settings["data_path"] = f"{folder}/data"
                    result = run(model, "ml-100k", config_dict=settings)
                    test, pop = result["test_result"], result["diagnostics"]["pop"]
                    record(
                        "learning",
                        {
                            "model": model, "seed": seed, "data": data, "hit@10": round(test["hit@10"], 4),
                            "ndcg@10": round(test["ndcg@10"], 4), "pop_ndcg@10": round(pop["ndcg@10"], 4),
                            "valid_ndcg@10": round(result["best_valid_result"]["ndcg@10"], 4),
                            "epochs": result["epochs"], "train_seconds": round(result["seconds"]["train"]),
                        },
                    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Train DreamRec with a published setting and test it epoch by epoch: the curve of docs/reproduction.md.

    python benchmarks/dreamrec_curve.py --paper=dreamrec-zhihu --data_path=../shared/data --epochs=30
    python benchmarks/dreamrec_curve.py --paper=dreamrec-yoochoose --data_path=FOLDER --epochs=30 --curve_every=2

Beside the keys of recbole-gen: --curve_every=N (epochs between two tests, default 1), --curve_file=FILE (a TSV). The
test rows are read every time, as the authors' code does; nothing is selected by them. Writes one line a test: loss,
spread of the item table, HR and NDCG at 20 on all rows and on rows with and without history, the same with untrained
items removed, Pop on the same rows, and how alike the lists are.
"""

import sys
import time

import pandas as pd
import torch
from recbole.utils import init_seed

import recbole_gen  # noqa: F401
from recbole_gen.config.config import Config
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.data.rows import training_item_counts
from recbole_gen.evaluation.diagnostics import Diagnostics
from recbole_gen.training.trainer import Trainer


def main(argv):
    own = {"curve_every": "1", "curve_file": "curve.tsv"}
    for name in own:
        for argument in [a for a in argv if a.startswith(f"--{name}=")]:
            own[name] = argument.partition("=")[2]
            argv.remove(argument)
    config = Config(argv=argv)
    torch.set_num_threads(config["num_threads"] or 1)
    init_seed(config["seed"], config["reproducibility"])
    data = create_dataset(config)
    train, _, test = create_loaders(config, data)
    init_seed(config["seed"], config["reproducibility"])
    model = config.model_class(config, train._dataset).to(config["device"])
    trainer = Trainer(config, model)
    trainer.eval_collector.data_collect(train)
    counts = training_item_counts(train._dataset.inter_feat, data.iid_field, data.item_num)
    table = []
    started = time.time()
    for epoch in range(config["epochs"] + 1):
        loss = trainer._train_epoch(train, epoch) / len(train) if epoch else float("nan")
        if epoch % int(own["curve_every"]):
            continue
        diagnostics = Diagnostics(config, counts)
        result = trainer.evaluate(test, load_best_model=False, diagnostics=diagnostics)
        out = diagnostics.result(model)
        trained, lists = out["trained_items_only"], out["lists"]
        norms = model.item_embedding.weight.detach()[1:].norm(dim=1)
        by_count = counts[1:].argsort()
        tenth = len(by_count) // 10
        table.append(
            {
                "epoch": epoch,
                "train_mse": loss,
                "rms": out["item_table"]["rms"],
                "norm_rarest": float(norms[by_count[:tenth]].mean()),
                "norm_most_popular": float(norms[by_count[-tenth:]].mean()),
                "hr20": result["hit@20"],
                "ndcg20": result["ndcg@20"],
                "hr20_with_history": out["with_history"]["hit@20"],
                "hr20_without_history": out["without_history"]["hit@20"],
                "untrained_in_lists": lists["untrained_share"],
                "untrained_in_hits": lists["untrained_hit_share"],
                "distinct_items": lists["distinct_items"],
                "mean_overlap": lists["mean_overlap"],
                "trained_only_hr20": trained["model"]["hit@20"],
                "pop_hr20": out["pop"]["hit@20"],
                "pop_ndcg20": out["pop"]["ndcg@20"],
                "trained_only_pop_hr20": trained["pop"]["hit@20"],
                "seconds": round(time.time() - started),
            }
        )
        pd.DataFrame(table).to_csv(own["curve_file"], sep="\t", index=False, float_format="%.6g")
        print({name: round(value, 5) if value is not None else None for name, value in table[-1].items()}, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

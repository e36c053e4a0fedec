"""One list for everybody under protocol `period`: the items that most training users have after its moment.

    python benchmarks/constant_list.py --data_path=FOLDER [--dataset=globo-scene] [--seeds=2020,2021,2022]

Scored on the rows, and with the metrics, of every model that runs with these seeds. What a model does not beat, it has
not learnt from the histories. `new_items` is the share of test rows whose next item nobody had before the moment,
`hours` the median time between the last event of a history and the next. Appends to results/constant_list.tsv.
"""

import argparse

import torch
from common import record

from recbole_gen.config.config import Config
from recbole_gen.data import set_splits
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.evaluation.ranking import TopKMetrics, distinct_positives


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--dataset", default="globo-scene")
    parser.add_argument("--seeds", default="2020,2021,2022")
    args = parser.parse_args()
    for seed in map(int, args.seeds.split(",")):
        # Of all models DSPnet has rows with the sets of later items; the model itself is not built.
        values = {"protocol": "period", "train_pairs": "cut", "data_path": args.data_path, "seed": seed}
        config = Config(model="DSPnet", dataset=args.dataset, config_dict=values)
        train, _, test = create_loaders(config, create_dataset(config))
        column = f"future_{config['ITEM_ID_FIELD']}{config['LIST_SUFFIX']}"
        _, items = distinct_positives(train._dataset.inter_feat[:][column])
        counts = torch.bincount(items, minlength=train._dataset.item_num).float()
        rows = test._dataset.inter_feat[:]
        scores = counts.expand(len(rows), -1)
        next_item, later = TopKMetrics(config), TopKMetrics(config)
        next_item.add(scores, *distinct_positives(rows[column][:, :1]))
        later.add(scores, *distinct_positives(rows[column]))
        found = next_item.result("next") | later.result("period")

        time_field, log = config["TIME_FIELD"], train._dataset.inter_feat.targets
        moment = set_splits.parse_period_start(config["period_start"], log[time_field].numpy())
        old = log[config["ITEM_ID_FIELD"]][log[time_field] < moment].unique()
        new_items = 1 - torch.isin(rows[config["ITEM_ID_FIELD"]], old).double().mean().item()
        last = rows[config["ITEM_LIST_LENGTH_FIELD"]].unsqueeze(1) - 1
        waited = rows[time_field] - rows[time_field + config["LIST_SUFFIX"]].gather(1, last).squeeze(1)
        found |= {"new_items": round(new_items, 3), "hours": round(waited.median().item() / 3600, 1)}
        record("constant_list", {"dataset": args.dataset, "seed": seed, "rows": len(rows), **found})


if __name__ == "__main__":
    main()

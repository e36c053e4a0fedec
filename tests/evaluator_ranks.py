"""What tests of recommendations share: the histories of a run's test rows, and whether its ranks come out again."""

from pathlib import Path

import pandas as pd

from recbole_gen.quick_start import load
from recbole_gen.recommending.recommender import Recommender


def rows_of_test(run_dir):
    """The test rows of a run in the words of its data set, as `Recommender.recommend` takes them."""
    run = load(run_dir)
    config, data = run.config, run.test._dataset
    item, user = config["ITEM_ID_FIELD"], config["USER_ID_FIELD"]
    lists = {"histories": item, "times": config["TIME_FIELD"], "scenes": config["SCENE_FIELD"]}
    rows = {"histories": [], "times": [], "scenes": [], "users": []}
    for batch in run.test:
        interaction = batch[0]
        seq = interaction[f"{item}_list"]
        lengths = (seq != 0).sum(1).tolist()
        rows["users"] += data.id2token(user, interaction[user]).tolist()
        for name, field in lists.items():
            if f"{field}_list" not in interaction:
                continue
            for values, length in zip(interaction[f"{field}_list"].tolist(), lengths, strict=True):
                kept = values[:length]
                rows[name].append(kept if name == "times" else [str(data.id2token(field, value)) for value in kept])
    return {name: values or None for name, values in rows.items()}


def require_ranks_of_evaluator(run_dir, device=None):
    """That the recommendations for the test rows are the lists that the evaluator has counted hits in."""
    ranks = pd.read_csv(Path(run_dir) / "ranks.test.tsv", sep="\t", dtype=str)
    recommender = Recommender.load(run_dir, device)
    user, item = recommender.config["USER_ID_FIELD"], recommender.config["ITEM_ID_FIELD"]
    rows = rows_of_test(run_dir)
    table = recommender.recommend(**rows, k=max(recommender.config["topk"]), exclude_seen=False)
    assert (table["by"] == "model").all()
    wanted = ranks[["row", user, item, "place"]].astype({"row": int, "place": int})
    places = dict(zip(zip(table["user"], table["item"], strict=True), table["rank"], strict=True))
    assert wanted[user].is_unique and len(wanted) == len(rows["users"])
    got = [places.get(pair, 0) for pair in zip(wanted[user], wanted[item], strict=True)]
    assert got == wanted["place"].tolist()
    return table

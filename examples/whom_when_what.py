"""From a log in CSV to a table that says whom to write to, when, and with what.

    python examples/whom_when_what.py events.csv customer sku at

The log has a row an event, with the columns of its user, item and time. The data set goes to dataset/mine, the run to
saved/, and the table to recommendations.csv.
"""

import argparse
from pathlib import Path

from recbole_gen.errors import UserError


def main(file, user, item, time, epochs=20):
    import pandas as pd

    from recbole_gen import Recommender, run
    from recbole_gen.prepare.from_log import log_columns, prepare_log

    prepare_log(Path(file), log_columns(user, item, time, None), Path("dataset/mine"))
    finished = run("PASRec", "mine", config_dict={"hidden_size": 64, "epochs": epochs, "data_path": "dataset"})
    recommender = Recommender.load(finished["run_dir"])
    log = pd.read_csv("dataset/mine/mine.inter", sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    users = log.groupby("user_id:token", sort=False).agg(list)
    table = recommender.recommend(users["item_id:token"], k=5, times=users["timestamp:float"], users=users.index)
    table.to_csv("recommendations.csv", index=False)
    print(table.head(10), recommender.window.describe() if recommender.window else "", sep="\n\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("file", "user", "item", "time"):
        parser.add_argument(name, help="the log, a CSV file" if name == "file" else f"its column of {name}s")
    try:
        main(**vars(parser.parse_args()))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")

"""Write a data set whose benchmark files hold one session a row as one flat log, which sequence_811 splits again.

    python benchmarks/flatten_sessions.py ../shared/data/yoochoose-dreamrec dataset/yoochoose-dreamrec

Reads NAME.{train,valid,test}.inter (session_id, item_id_list, item_id) and writes NAME.inter (session_id, item_id,
timestamp), where the timestamp is the position in the session. Files and rows keep their order, so
`--protocol=sequence_811 --sequence_order=file` gives the parts that the files had.
"""

import sys
from pathlib import Path

import pandas as pd


def main(source: Path, target: Path) -> None:
    parts = [
        pd.read_csv(source / f"{source.name}.{part}.inter", sep="\t", dtype=str) for part in ("train", "valid", "test")
    ]
    rows = pd.concat(parts, ignore_index=True)
    items = rows["item_id_list:token_seq"] + " " + rows["item_id:token"]
    flat = items.str.split(" ").explode()
    log = pd.DataFrame({"session_id:token": rows["session_id:token"].loc[flat.index].to_numpy(), "item_id:token": flat})
    log["timestamp:float"] = log.groupby("session_id:token", sort=False).cumcount() + 1
    target.mkdir(parents=True, exist_ok=True)
    log.to_csv(target / f"{target.name}.inter", sep="\t", index=False)
    print(f"{len(rows)} sessions, {len(log)} events -> {target / target.name}.inter")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Seconds and peak memory of reading a synthetic log (that of data.py) into a table: which reader shall it be?

    python benchmarks/readers.py [--polars=FOLDER]     # 1, 10 and 20 million rows

Every reader ends with the same table: user and item as pandas categories, the time as float64; the ids that they get in
the order of first appearance are compared. Each runs in a process of its own, with the threads that it takes by itself.
"cpu_s" is the time of all of its threads, which other work on the machine changes less than "seconds"; "read_mib" is
the peak memory less what the process took after its imports, "peak_mib" the whole. polars is no dependency: it is
measured where FOLDER has it (pip install --target=FOLDER polars). Appends to results/readers.tsv.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

TITLES = ("user_id:token", "item_id:token", "timestamp:float")


def by_pandas():
    import pandas as pd

    def read(path):
        dtypes = dict(zip(TITLES, ("category", "category", "float64"), strict=True))
        return pd.read_csv(path, sep="\t", dtype=dtypes, usecols=list(TITLES), engine="c", encoding="utf-8")

    return read


def by_pyarrow(block):
    """As compat reads, without its care for odd files."""
    import numpy as np
    import pandas as pd
    import pyarrow
    from pyarrow import csv

    def categories(column):
        column = column.unify_dictionaries()
        codes = np.concatenate([chunk.indices.fill_null(-1).to_numpy() for chunk in column.chunks])
        return pd.Categorical.from_codes(codes, pd.Index(column.chunk(0).dictionary.to_pandas(), dtype=str))

    def read(path):
        tokens, numbers = pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.float64()
        kinds = dict(zip(TITLES, (tokens, tokens, numbers), strict=True))
        table = csv.read_csv(
            path,
            csv.ReadOptions(block_size=block),
            csv.ParseOptions(delimiter="\t", quote_char=False),
            csv.ConvertOptions(column_types=kinds, include_columns=list(TITLES), strings_can_be_null=True),
        )
        columns = {title: categories(table[title]) for title in TITLES[:2]}
        return pd.DataFrame(columns | {TITLES[2]: table[TITLES[2]].to_numpy()})

    return read


def by_polars():
    import pandas as pd
    import polars

    def read(path):
        kinds = dict(zip(TITLES, (polars.Categorical, polars.Categorical, polars.Float64), strict=True))
        table = polars.read_csv(path, separator="\t", schema_overrides=kinds, columns=list(TITLES))
        columns = {title: table[title].to_arrow() for title in TITLES[:2]}
        tables = {
            title: pd.Categorical.from_codes(each.indices.to_numpy(), each.dictionary.to_pandas())
            for title, each in columns.items()
        }
        return pd.DataFrame(tables | {TITLES[2]: table[TITLES[2]].to_numpy()})

    return read


READERS = {
    "pandas, C engine": by_pandas,
    "pyarrow, blocks of 1 MiB": lambda: by_pyarrow(1 << 20),
    "pyarrow, blocks of 4 MiB": lambda: by_pyarrow(4 << 20),
    "pyarrow, blocks of 16 MiB": lambda: by_pyarrow(16 << 20),
    "polars": by_polars,
}


def measure(reader, path):
    """In the child: read once; prints JSON."""
    from common import peak_mib
    from data import memory

    read = READERS[reader]()
    import pandas as pd

    before, started, cpu = memory(), time.perf_counter(), time.process_time()
    table = read(path)
    out = {"seconds": round(time.perf_counter() - started, 2), "cpu_s": round(time.process_time() - cpu, 2)}
    peak = peak_mib()
    out |= {"read_mib": round(peak - before), "peak_mib": peak, "table_mib": round(table.memory_usage().sum() / 2**20)}
    ids = [pd.factorize(table[title])[0] if title != TITLES[2] else table[title].to_numpy() for title in TITLES]
    print(json.dumps(out | {"checksum": zlib.crc32(b"".join(each.tobytes() for each in ids))}))


def main():
    from common import record
    from data import write_log

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polars", metavar="FOLDER")
    args = parser.parse_args()
    for rows in (1_000_000, 10_000_000, 20_000_000):
        with tempfile.TemporaryDirectory() as folder:
            write_log(folder, rows)
            path = Path(folder) / "synthetic/synthetic.inter"
            checksums = set()
            for reader in READERS:
                if reader == "polars" and not args.polars:
                    continue
                command = [sys.executable, __file__, "--measure", reader, str(path), args.polars or ""]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{reader} at {rows}:\n{done.stderr}")
                found = json.loads(done.stdout.splitlines()[-1])
                checksums.add(found.pop("checksum"))
                record("readers", {"reader": reader, "rows": rows, **found})
            if len(checksums) > 1:
                sys.exit("the readers do not agree")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        sys.path.extend(filter(None, sys.argv[4:5]))
        measure(*sys.argv[2:4])
    else:
        main()

"""The statistics of the recipes on real data, beside what the papers print.

    python benchmarks/published_counts.py --data=FOLDER

FOLDER has whole data sets as atomic files, in folders of their names (amazon-beauty, ml-1m, ...): each that has a
recipe is filtered by every version of it. Appends to results/published_counts.tsv.
"""

import sys
from pathlib import Path

from recbole_gen.errors import UserError
from recbole_gen.prepare import from_recipe, statistics
from recbole_gen.prepare.recipes import RECIPES
from recbole_gen.reading.file_readers import ReadCounts


def main():
    from common import record

    data = Path(next(argument.partition("=")[2] for argument in sys.argv if argument.startswith("--data=")))
    for name, recipe in RECIPES.items():
        if not (data / name).is_dir():
            continue
        for paper, version in recipe.versions.items():
            log, _ = from_recipe.read_log(recipe, data / name, ReadCounts())
            try:
                for step in (*recipe.steps, *version.steps):
                    log = step.apply(log)
            except UserError as error:  # ml-1m there has no ratings
                print(f"{name}, {paper}: {error}", flush=True)
                continue
            found = statistics.log_statistics(log, version.sequences, version.counted_last)
            for statistic, published in version.published.items():
                same = statistics.agrees_with_print(found[statistic], published)
                row = {"data_set": name, "version": paper, "statistic": statistic, "here": round(found[statistic], 3)}
                record("published_counts", row | {"published": published, "agrees": same})


if __name__ == "__main__":
    main()

"""The verb `recommend`: a file of histories to a file of recommendations, in bounded memory, and resumable."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from tqdm import tqdm

from recbole_gen import __version__, compat, options
from recbole_gen.errors import UserError
from recbole_gen.files import lock_folder, read_json, write_json
from recbole_gen.options import parse_arguments
from recbole_gen.recommending.history_files import column_names, read_histories
from recbole_gen.recommending.recommender import Recommender

USAGE = """\
usage: recbole-gen recommend --checkpoint=FOLDER --histories=FILE --output=FILE [--k=10]

  --checkpoint=FOLDER  the folder of a run; its data set need not be here
  --histories=FILE     .csv, .tsv, .inter (a log, a row an event; or a row a user with the items in a column `history`,
                       blanks between them), .jsonl ({"user": "u", "history": ["i", "j"], "times": [...]}) or .parquet
  --output=FILE        .csv, .jsonl or .parquet: user, rank, item, score, by; dates of models that predict times, the
                       next scene of those that predict scenes
  --k=10               items for each user
  --exclude_seen=true  do not recommend what is in the history
  --candidates=FILE    recommend these items only, one a line
  --when               say what the predicted times are worth (PASRec): the share of true times in the windows
  --between A B        of users with a window (from, until) that meets these days only: --between 2024-05-01 2024-05-07
  --user, --item, --time, --scene      the columns of FILE, if they have other names than in the data set
  --search=exact       exact, or ann: of more than 100,000 items an index finds the best (recbole-gen[ann])
  --device=cpu         cpu or cuda (default: as a run would choose)

Interrupted, the same command goes on where it stopped, with the same result.
"""
DEFAULTS: dict[str, Any] = {
    "checkpoint": "", "histories": "", "output": "", "k": 10, "exclude_seen": True, "candidates": "", "when": False,
    "between": "", "user": "", "item": "", "time": "", "scene": "", "device": "", "search": "exact",
}  # fmt: skip
FORMATS = (".csv", ".jsonl", ".parquet")
TODAY = "today"
RETURN_EVERY = 16
"""Parts after which freed memory is returned to the system."""


@dataclass
class Totals:
    """What has been done: users read, users with an answer that is kept, and what was told of their histories."""

    users: int = 0
    kept: int = 0
    rows: int = 0
    unknown: int = 0
    by_popularity: int = 0


def main(arguments: Sequence[str]) -> None:
    """The `recommend` verb of the command line. Raises UserError for bad input."""
    if not arguments or any(argument in ("-h", "--help", "help") for argument in arguments):
        print(USAGE, end="")
        return
    values = options.verb_options(parse_arguments(_joined(arguments)), DEFAULTS, "recommend")
    for key in ("checkpoint", "histories", "output"):
        if not values[key]:
            raise UserError(f"recommend needs --{key}=...; `recbole-gen recommend --help` says what of")
    if values["device"] not in ("", "cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, got {values['device']}")
    output = Path(str(values["output"]))
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"--output: the name must end in one of {', '.join(FORMATS)}, got {output}")
    between = _days(values["between"])
    candidates = _lines(values["candidates"])
    histories = Path(str(values["histories"]))
    if not histories.is_file():
        raise UserError(f"--histories: there is no file {histories}")
    recommender = Recommender.load(str(values["checkpoint"]), values["device"] or None, str(values["search"]))
    if (values["when"] or between) and not recommender.predicts_times:
        raise UserError(f"{recommender.config['model']} predicts no times: --when and --between are for PASRec")
    totals = write(recommender, histories, output, values, between, candidates)
    _tell(totals, recommender, output, values["when"] or between is not None)


def write(
    recommender: Recommender,
    histories: Path,
    output: Path,
    values: dict[str, Any],
    between: tuple[np.datetime64, np.datetime64] | None = None,
    candidates: list[str] | None = None,
) -> Totals:
    """Answer a file of histories, whole or not at all.

    Parts lie in OUTPUT.parts until all are there; those of the same command are taken up again.

    Args:
        values: options of the command line: k, exclude_seen, columns.
        between: first and last day that a user's window must meet.
        candidates: the items that may be recommended.

    Raises UserError for bad input, and for files that cannot be read or written.
    """
    parts = output.with_name(f"{output.name}.parts")
    names = column_names(values, recommender.config)
    try:
        with lock_folder(parts, "recommendations"):
            note = read_json(parts / "note.json")
            fingerprint = _fingerprint(values, histories)
            if note.get("made_of") != fingerprint:
                if note:
                    print(f"what is in {parts} is of another command or of other files, and is begun again", flush=True)
                note = {"made_of": fingerprint, "done": 0, "totals": {}, "state": None}
            done, totals = note["done"], Totals(**note["totals"])
            if done:
                print(f"going on after {totals.users:,} users", flush=True)
                recommender.restore(note["state"] and base64.b64decode(note["state"]))
            else:
                recommender.begin()
            with tqdm(unit=" users", disable=not sys.stderr.isatty(), initial=totals.users) as bar:
                for number, given in enumerate(read_histories(histories, names)):
                    if number < done:
                        continue
                    table = recommender.answer(given, values["k"], values["exclude_seen"], candidates)
                    totals.users += len(given)
                    totals.unknown += table.attrs["unknown"]
                    totals.by_popularity += table.attrs["by_popularity"]
                    table = _within(table, between)
                    totals.kept += table["user"].nunique()
                    totals.rows += len(table)
                    _write_part(parts / _part(number), table)
                    state = recommender.state
                    text = base64.b64encode(state).decode() if state else None
                    note.update(done=number + 1, totals=vars(totals), state=text)
                    write_json(parts / "note.json", note)  # the part is whole by now
                    bar.update(len(given))
                    if number % RETURN_EVERY == 0:
                        compat.return_freed_memory()  # what lists of different lengths have left behind
            if not note["done"]:
                raise UserError(f"{histories} has no histories")
            _join(parts, note["done"], output)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped after {totals.users:,} users; the same command goes on from there") from None
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}") from None
    shutil.rmtree(parts, ignore_errors=True)
    return totals


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--between A B` in one word."""
    words = list(arguments)
    for place, word in enumerate(words[:-2]):
        if word == "--between" and not words[place + 2].startswith("--"):
            words[place : place + 3] = [f"--between={words[place + 1]} {words[place + 2]}"]
            break
    return words


def _days(text: Any) -> tuple[np.datetime64, np.datetime64] | None:
    if not text:
        return None
    words = str(text).replace(",", " ").split()
    try:
        days = [np.datetime64("today" if word == TODAY else word, "D") for word in words]
        if not 1 <= len(days) <= 2 or np.isnat(days).any() or days[0] > days[-1]:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--between needs two days, the earlier first: --between 2024-05-01 2024-05-07 (or {TODAY}); got {text}"
        ) from None
    return days[0], days[-1]


def _lines(name: Any) -> list[str] | None:
    if not name:
        return None
    try:
        lines = Path(str(name)).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--candidates: {name} cannot be read: {error}") from None
    return [line for line in lines if line]


def _fingerprint(values: dict[str, Any], histories: Path) -> str:
    """What parts are made of: options, files, and this version."""
    files = [histories, Path(str(values["checkpoint"])) / "best.pth", Path(str(values["checkpoint"])) / "when.json"]
    if values["candidates"]:
        files.append(Path(str(values["candidates"])))
    stamps = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files if path.exists()]
    return hashlib.sha256(json.dumps([__version__, values, stamps], default=str).encode()).hexdigest()


def _within(table: pd.DataFrame, between: tuple[np.datetime64, np.datetime64] | None) -> pd.DataFrame:
    if between is None:
        return table
    first, last = between
    return table[(table["from"] <= last) & (table["until"] >= first)]  # NaT is neither


def _part(number: int) -> str:
    return f"{number:06d}.parquet"


def _write_part(path: Path, table: pd.DataFrame) -> None:
    kinds = {"user": pa.string(), "rank": pa.int32(), "item": pa.string(), "score": pa.float32(), "by": pa.string(),
             "next_scene": pa.string()}  # fmt: skip
    columns = {}
    for name in table.columns:
        values = pa.Array.from_pandas(table[name], type=kinds.get(name))
        columns[name] = values if name in kinds else values.cast(pa.timestamp("s")).cast(pa.date32())
    temporary = path.with_suffix(".tmp")
    pyarrow.parquet.write_table(pa.table(columns), temporary)
    temporary.replace(path)


def _parts(folder: Path, number: int) -> Iterator[pa.Table]:
    for part in range(number):
        try:
            yield pyarrow.parquet.read_table(folder / _part(part), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{folder / _part(part)} is damaged ({error}): remove {folder}, and begin again") from None


def _join(folder: Path, number: int, output: Path) -> None:
    """The parts as one file in the form that is asked for."""
    temporary = folder / f"whole{output.suffix}"
    kind = output.suffix.lower()
    schema = pyarrow.parquet.read_schema(folder / _part(0))
    if kind == ".parquet":
        with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
            for table in _parts(folder, number):
                writer.write_table(table)
    elif kind == ".csv":
        quoting = pyarrow.csv.WriteOptions(include_header=True, quoting_style="needed")
        with pyarrow.csv.CSVWriter(temporary, schema, write_options=quoting) as writer:
            for table in _parts(folder, number):
                writer.write_table(table)
    else:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for table in _parts(folder, number):
                for row in table.to_pylist():
                    file.write(json.dumps(row, default=str, ensure_ascii=False) + "\n")
    temporary.replace(output)


def _tell(totals: Totals, recommender: Recommender, output: Path, when: bool) -> None:
    print(f"{totals.rows:,} rows of {totals.kept:,} users in {output}; {totals.users:,} histories read")
    if totals.unknown:
        print(f"{totals.unknown:,} events of items that the model does not know were left out")
    if totals.by_popularity:
        print(f"{totals.by_popularity:,} users are answered by popularity: the model has nothing to tell them by")
    if when and recommender.window is not None:
        print(recommender.window.told())
    elif when:
        print("how good the windows are was not measured: this run has no when.json, and they show only how finely the "
              "model tells days apart")  # fmt: skip

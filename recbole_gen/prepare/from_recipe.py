"""From a publisher's archive to a data set in place: fetched or given, filtered as a paper does, compared with it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_gen import __version__
from recbole_gen.errors import UserError, counted
from recbole_gen.files import read_json, write_json
from recbole_gen.prepare import archive, download, filters
from recbole_gen.prepare.atomic_file import write_atomic_file
from recbole_gen.prepare.dataset_folder import require_replaceable
from recbole_gen.prepare.fields import ITEM, SESSION, TIME, TOKENS, USER
from recbole_gen.prepare.log import Log, log_from_batches
from recbole_gen.prepare.recipe_readers import find_atomic_file, read_batches
from recbole_gen.prepare.recipes import Recipe, resolve_recipe
from recbole_gen.prepare.sources import AtomicFile, Source
from recbole_gen.prepare.statistics import differences_from_paper, log_statistics, statistics_table
from recbole_gen.prepare.tied_ends import tied_ends
from recbole_gen.reading.file_readers import ReadCounts

AGREEMENTS_FILE = "agreements.json"
Say = Callable[[str], None]


def prepare_by_name(name: str, data_path: str | Path, say: Say = print) -> None:
    """Fetch and prepare the data set of a name that has a recipe.

    Raises UserError that says what to fetch by hand, and where to put it, if it cannot be fetched.
    """
    recipe, paper = resolve_recipe(name, None)
    prepare_recipe(recipe, paper, Path(data_path) / name, None, Path(data_path), say=say)


def prepare_recipe(
    recipe: Recipe,
    paper: str | None,
    target: Path,
    raw: Path | None,
    data_path: Path,
    agreed: bool = False,
    say: Say = print,
) -> None:
    """Write a version of a data set into the folder ``target``, whole or not at all, and tell its statistics.

    Args:
        paper: one of the recipe's versions, or None for the plain one.
        raw: what was fetched by hand; None to fetch it into the folder .downloads of ``data_path``.
        agreed: the user agrees to the publisher's terms.

    Raises UserError for what cannot be fetched, read or written.
    """
    require_replaceable(target, None if raw is None else ("--raw", raw))
    say(f"{recipe.title}\n  {recipe.page}\n  licence: {recipe.licence}\n  cite: {recipe.citation}")
    if recipe.remark:
        say(f"  {recipe.remark}")
    if raw is None:
        raw = _download_raw(recipe, recipe.dataset_name(paper), data_path / download.DOWNLOADS_FOLDER, agreed, say)
    started, counts = time.perf_counter(), ReadCounts()
    say(f"reading {raw}")
    log, missing = read_log(recipe, raw, counts)
    _tell_left_out(counts, missing, say)
    steps, version = [], recipe.versions[paper] if paper else None
    for step in (*recipe.steps, *(version.steps if version else ())):
        log = step.apply(log)
        steps.append({"step": step.words, "interactions": len(log)})
        say(f"  {step.words}: {counted(len(log), 'interaction')} left")
    if not len(log):
        raise UserError(f"{raw}: nothing is left of {recipe.name}; is it the whole data set?")
    sequences = version is not None and version.sequences
    if sequences:
        log = filters.order_by_sequence(log)
    numbers, ties = log_statistics(log, sequences), tied_ends(log[USER], log[ITEM], log[TIME])
    provenance: dict[str, Any] = {
        "recipe": recipe.name, "as": paper, "recbole_gen": __version__, "title": recipe.title, "page": recipe.page,
        "licence": recipe.licence, "citation": recipe.citation, "source": _describe_source(raw),
        "bad_lines": counts.bad, "rows_without_user_item_or_time": missing, "steps": steps, "statistics": numbers,
        "tied_last_events": ties.as_json(), "published": dict(version.published) if version else {},
    }  # fmt: skip
    write_atomic_file(target, log, {**recipe.renamed_fields, **({USER: SESSION} if sequences else {})}, provenance)
    _tell_statistics(log, numbers, recipe, paper, say)
    say("last events: " + ties.describe("sequence" if sequences else "user"))
    say(f"{target}/{target.name}.inter is written ({time.perf_counter() - started:.1f} s): --dataset={target.name}")


def read_log(recipe: Recipe, raw: Path, counts: ReadCounts) -> tuple[Log, int]:
    """All of a publisher's log, and how many of its rows have no user, item or time, which are not in it.

    Raises UserError if ``raw`` has none of the recipe's files, or a damaged one.
    """
    source = _find_source(recipe, raw)
    numbers = tuple(field for field in source.fields if field not in TOKENS)
    log = log_from_batches(read_batches(source, raw, numbers, counts), source.fields, TOKENS)
    whole = filters.drop_missing(log, USER, ITEM, TIME)
    return whole, len(log) - len(whole)


def _find_source(recipe: Recipe, raw: Path) -> Source:
    """The form in which the data is there; RecBole's atomic file of it will do, too."""
    first = recipe.sources[0]
    for source in recipe.sources:
        with contextlib.suppress(archive.MemberNotFound), archive.open_members(raw, source.file):
            return source
    with contextlib.suppress(archive.MemberNotFound):
        return find_atomic_file(raw, {field: recipe.renamed_fields.get(field, field) for field in first.fields})
    if raw.is_file() and len(recipe.sources) == 1 and "*" not in first.file:
        return first  # perhaps under another name
    files = [*(source.file for source in recipe.sources), AtomicFile.file]
    raise UserError(f"{raw} has none of the files of {recipe.title} ({', '.join(files)}), which is at {recipe.page}")


def _describe_source(raw: Path) -> dict[str, Any]:
    """What the data was made from."""
    if raw.is_dir():
        return {"name": raw.name}
    return {"name": raw.name, "bytes": raw.stat().st_size, "sha256": download.sha256_of(raw)}


def _download_raw(recipe: Recipe, output: str, downloads: Path, agreed: bool, say: Say) -> Path:
    """The publisher's archive, fetched unless it is there already."""
    if recipe.url is None:
        raise UserError(
            f"{recipe.title} cannot be fetched by a program: fetch it from {recipe.page} and give it to --raw: "
            f"recbole-gen prepare {output} --raw=PATH"
        )
    if recipe.needs_agreement:
        _require_agreement(recipe, downloads, agreed)
    return download.download_file(recipe.url, downloads, md5=recipe.md5, say=say, name=recipe.file_name)


def _require_agreement(recipe: Recipe, downloads: Path, agreed: bool) -> None:
    """Ask once whether the user agrees to the terms. Raises UserError if not, or if nobody is there to answer."""
    given = read_json(downloads / AGREEMENTS_FILE)
    if given.get(recipe.name) == recipe.licence:
        return
    terms = f"the publisher's terms for {recipe.title} ({recipe.licence}; {recipe.page})"
    if not agreed:
        if not (sys.stdin and sys.stdin.isatty()):
            raise UserError(f"{terms} want to be agreed to: recbole-gen prepare {recipe.name} --agree")
        agreed = input(f"Do you agree to {terms}? [yes/no] ").strip().lower() in ("y", "yes")
    if not agreed:
        raise UserError(f"without agreeing to {terms} it is not fetched")
    downloads.mkdir(parents=True, exist_ok=True)
    write_json(downloads / AGREEMENTS_FILE, {**given, recipe.name: recipe.licence})


def _tell_left_out(counts: ReadCounts, missing: int, say: Say) -> None:
    if counts.bad:
        first = counts.examples[0]
        say(f"warning: {counted(counts.bad, 'line', 'are')} no row of this file, left out, the first: {first!r}")
    if missing:
        say(f"warning: {counted(missing, 'row', 'have')} no user, item or time, left out")


def _tell_statistics(log: Log, numbers: dict[str, float], recipe: Recipe, paper: str | None, say: Say) -> None:
    if paper is None:
        say(statistics_table(numbers, "", {}))
        return
    version = recipe.versions[paper]
    if version.counted_last:
        last = version.counted_last
        numbers = log_statistics(log, version.sequences, last)
        say(f"counted, as the paper does, over the last {last} interactions of a user; here are {len(log):,}")
    say(statistics_table(numbers, version.paper, version.published))
    for difference in differences_from_paper(numbers, version.published):
        say(f"warning: {difference}")
    if version.note:
        say(f"note: {version.note}")

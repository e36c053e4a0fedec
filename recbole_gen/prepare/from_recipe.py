"""From a publisher's archive to a data set in place: fetched or given, filtered as a paper does, compared with it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_gen import __version__
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.files import read_json, write_json
from recbole_gen.prepare import archive, atomic_file, dataset_folder, download, statistics
from recbole_gen.prepare import log as logs
from recbole_gen.prepare.formats import Seen
from recbole_gen.prepare.log import ITEM, TIME, USER, Log
from recbole_gen.prepare.recipes import RECIPES, SESSION, TOKENS, Recipe, find
from recbole_gen.prepare.sources import Atomic, Source

AGREED = "agreements.json"
Say = Callable[[str], None]


def known(name: str) -> bool:
    """Whether there is a recipe for the data set of this name."""
    return find(name) is not None


def fetches(name: str) -> bool:
    """Whether the recipe for this name, if there is one, can fetch what it needs."""
    found = find(name)
    return found is not None and found[0].url is not None


def prepared(name: str, data_path: str | Path, say: Say = print) -> None:
    """Fetch and prepare the data set of a name that is `known`.

    Raises UserError that says what to fetch by hand, and where to put it, if it cannot be fetched.
    """
    recipe, paper = recipe_of(name, None)
    make(recipe, paper, Path(data_path) / name, None, Path(data_path), say=say)


def recipe_of(name: str, paper: str | None) -> tuple[Recipe, str | None]:
    """The recipe of this name, or of this name of a version, and the version. Raises UserError."""
    found = find(name)
    if found is None:
        raise UserError(
            f"there is no recipe '{name}'.{did_you_mean(name, RECIPES)} `recbole-gen prepare` lists them; for a log of "
            f"your own: --from=FILE --user=COLUMN --item=COLUMN --time=COLUMN"
        )
    recipe, version = found
    paper = paper or version
    if paper is not None and paper not in recipe.versions:
        there = f"there are: {', '.join(recipe.versions)}" if recipe.versions else "there is none but the plain one"
        raise UserError(f"no paper '{paper}' has a version of {recipe.name}; {there} (leave --as out for all of it)")
    return recipe, paper


def make(
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
    dataset_folder.require_replaceable(target)
    say(f"{recipe.title}\n  {recipe.page}\n  licence: {recipe.licence}\n  cite: {recipe.citation}")
    if recipe.says:
        say(f"  {recipe.says}")
    if raw is None:
        raw = _fetched(recipe, recipe.output(paper), data_path / download.DOWNLOADS, agreed, say)
    started, seen = time.perf_counter(), Seen()
    say(f"reading {raw}")
    log, missing = read(recipe, raw, seen)
    _tell_left_out(seen, missing, say)
    steps, version = [], recipe.versions[paper] if paper else None
    for step in (*recipe.steps, *(version.steps if version else ())):
        log = step.apply(log)
        steps.append({"step": step.words, "interactions": len(log)})
        say(f"  {step.words}: {len(log):,} interactions left")
    if not len(log):
        raise UserError(f"{raw}: nothing is left of {recipe.name}; is it the whole data set?")
    sequences = version is not None and version.sequences
    if sequences:
        log = logs.in_order_of_sequences(log)
    numbers = statistics.statistics(log, sequences)
    note: dict[str, Any] = {
        "recipe": recipe.name, "as": paper, "recbole_gen": __version__, "title": recipe.title, "page": recipe.page,
        "licence": recipe.licence, "citation": recipe.citation, "source": _source(raw),
        "bad_lines": seen.bad, "rows_without_user_item_or_time": missing, "steps": steps, "statistics": numbers,
        "published": dict(version.published) if version else {},
    }  # fmt: skip
    atomic_file.atomic(target, log, {**recipe.names, **({USER: SESSION} if sequences else {})}, note)
    _tell_statistics(log, numbers, recipe, paper, say)
    say(f"{target}/{target.name}.inter is written ({time.perf_counter() - started:.1f} s): --dataset={target.name}")


def read(recipe: Recipe, raw: Path, seen: Seen) -> tuple[Log, int]:
    """All of a publisher's log, and how many of its rows have no user, item or time, which are not in it.

    Raises UserError if ``raw`` has none of the recipe's files, or a damaged one.
    """
    source = _source_in(recipe, raw)
    numbers = tuple(field for field in source.fields if field not in TOKENS)
    log = logs.gather(source.batches(raw, numbers, seen), source.fields, TOKENS)
    whole = logs.with_value(log, USER, ITEM, TIME)
    return whole, len(log) - len(whole)


def _source_in(recipe: Recipe, raw: Path) -> Source:
    """The form in which the data is there; RecBole's atomic file of it will do, too."""
    for source in recipe.sources:
        with contextlib.suppress(archive.NotThere), archive.open_members(raw, source.file):
            return source
    with contextlib.suppress(archive.NotThere):
        return Atomic.of(raw, {field: recipe.names.get(field, field) for field in recipe.sources[0].fields})
    first = recipe.sources[0]
    if raw.is_file() and len(recipe.sources) == 1 and "*" not in first.file:
        return first  # perhaps under another name
    files = [*(source.file for source in recipe.sources), Atomic.file]
    raise UserError(f"{raw} has none of the files of {recipe.title} ({', '.join(files)}), which is at {recipe.page}")


def _source(raw: Path) -> dict[str, Any]:
    """What the data was made from."""
    if raw.is_dir():
        return {"name": raw.name}
    return {"name": raw.name, "bytes": raw.stat().st_size, "sha256": download.sha256_of(raw)}


def _fetched(recipe: Recipe, output: str, downloads: Path, agreed: bool, say: Say) -> Path:
    """The publisher's archive, fetched unless it is there already."""
    if recipe.url is None:
        raise UserError(
            f"{recipe.title} cannot be fetched by a program: fetch it from {recipe.page} and give it to --raw: "
            f"recbole-gen prepare {output} --raw=PATH"
        )
    if recipe.agree:
        _agree(recipe, downloads, agreed)
    return download.fetch(recipe.url, downloads, md5=recipe.md5, say=say, name=recipe.file)


def _agree(recipe: Recipe, downloads: Path, agreed: bool) -> None:
    """Ask once whether the user agrees to the terms. Raises UserError if not, or if nobody is there to answer."""
    given = read_json(downloads / AGREED)
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
    write_json(downloads / AGREED, {**given, recipe.name: recipe.licence})


def _tell_left_out(seen: Seen, missing: int, say: Say) -> None:
    if seen.bad:
        say(f"warning: {seen.bad:,} line(s) are no rows of this file and are left out, the first: {seen.examples[0]!r}")
    if missing:
        say(f"warning: {missing:,} row(s) have no user, item or time and are left out")


def _tell_statistics(log: Log, numbers: dict[str, float], recipe: Recipe, paper: str | None, say: Say) -> None:
    if paper is None:
        say(statistics.beside(numbers, "", {}))
        return
    version = recipe.versions[paper]
    if version.counted:
        numbers = statistics.statistics(log, version.sequences, version.counted)
        say(
            f"counted, as the paper does, over the last {version.counted} interactions of a user; here are {len(log):,}"
        )
    say(statistics.beside(numbers, version.paper, version.published))
    for difference in statistics.differences(numbers, version.published):
        say(f"warning: {difference}")
    if version.note:
        say(f"note: {version.note}")

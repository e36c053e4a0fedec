"""What an atomic file is. Nothing large is imported here: who only looks at a title line needs this alone."""

from __future__ import annotations

from pathlib import Path

from recbole_gen.errors import UserError

TYPES = ("token", "token_seq", "float", "float_seq")
"""What a title says that its column holds."""
LONGEST_TITLES = 1 << 20
"""Bytes of a line of titles, at most."""
BOM = b"\xef\xbb\xbf"
TIME_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Name -> how many of it are a second."""
START_OF_CALENDAR, END_OF_CALENDAR = -62135596800, 253402300800
"""Unix seconds of the beginning of the year 1 and of 10000: a time outside of them is none."""
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "n/a", "#N/A", "<NA>", "\\N")
"""What stands for no value in CSV, and among numbers: pandas' words for it, R's, and that of database dumps."""
MAX_BAD = 0.05
"""Share of the rows of a file that may be unusable, unless the user says another."""
FORMATS = {".inter": "atomic", ".csv": "text", ".tsv": "text", ".txt": "text", ".jsonl": "json", ".ndjson": "json",
           ".json": "json", ".parquet": "parquet", ".pq": "parquet"}  # fmt: skip
"""How the name of a log ends -> how it is read."""


LONE_CR = (
    "there is a carriage return in it that ends no line (old Macs ended theirs so: tr '\\r' '\\n' < OLD > NEW converts "
    "such a file; else remove it)"
)


def title_line(path: Path, separator: str = "\t", encoding: str | None = "utf-8") -> dict[str, str]:
    """Column -> type of an atomic file, in their order.

    Raises UserError for a first line that is not `name:type` all through, or has a name twice.
    """
    try:
        with open(path, "rb") as file:
            titles = decode_titles(file.read(LONGEST_TITLES), encoding).split(separator)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise UserError(
            f"{path} begins with what is no text in {encoding or 'utf-8'}: an atomic file begins with a line of titles "
            f"(--encoding=NAME says in which encoding)"
        ) from None
    if "\r" in "".join(titles):
        raise UserError(f"{path}: line 1: {LONE_CR}")
    columns: dict[str, str] = {}
    if titles == [""]:
        raise UserError(f"{path} begins with no line of titles, such as user_id:token<tab>item_id:token")
    if len(titles) == 1:
        _refuse_other_separator(path, titles[0])
    for title in titles:
        name, _, kind = title.rpartition(":")
        if not name or kind not in TYPES:
            raise UserError(
                f"the title line of {path} is wrong at {title[:60]!r}: every title is name:type with one of the types "
                f"{', '.join(TYPES)}, such as user_id:token"
            )
        if name in columns:
            raise UserError(f"the title line of {path} has the column '{name}' twice: remove or rename one of them")
        columns[name] = kind
    return columns


def _refuse_other_separator(path: Path, text: str) -> None:
    """Raise UserError for what looks like several titles with another separator between them."""
    for other in "\t,;| ":
        titles = text.split(other)
        if len(titles) > 1 and all(plain_title(title.strip()) != title.strip() for title in titles):
            shown = "a tab" if other == "\t" else f"{other!r}"
            raise UserError(
                f"the titles of {path} are divided by {shown}: an atomic file has tabs, or what --field_separator says"
            )


def plain_title(title: str) -> str:
    """A title without the type that it may have."""
    name, _, kind = title.rpartition(":")
    return name if name and kind in TYPES else title


def decode_titles(start: bytes, encoding: str | None = "utf-8") -> str:
    """The first line of a file that begins so, without a byte order mark. Raises UnicodeDecodeError."""
    if not (encoding or "").lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        start = start.partition(b"\n")[0]
    text = start.removeprefix(BOM).decode(
        encoding or "utf-8", "ignore" if len(start) > LONGEST_TITLES - 4 else "strict"
    )
    return text.partition("\n")[0].removeprefix("\ufeff").rstrip("\r")

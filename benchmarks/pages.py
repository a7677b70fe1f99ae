"""Pages and the tables in them: where they stand, what they are read from, how they look.

A page holds each table between two comments, the first of which names it:

    <!-- table: game pong -->
    ...
    <!-- end -->

`rewritten` writes anew what stands between them. `benchmarks.tables` makes the tables.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from systems.errors import InputError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
SHIPPED = ROOT / "pretrained"
# What the pages call the games.
TITLES = {
    "freeway": "Freeway",
    "pong": "Pong",
    "ms_pacman": "Ms. Pac-Man",
    "space_invaders": "Space Invaders",
    "breakout": "Breakout",
}
SOURCE = "*Source: "  # how the line below a table begins that says where its figures come from
_BLOCK = re.compile(r"^(<!-- table: (.+?) -->\n)(.*?)^(<!-- end -->)$", re.DOTALL | re.MULTILINE)

Row = Sequence[str]


def pages() -> list[Path]:
    """Every page that may hold tables."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def rewritten(text: str, tables: Mapping[str, Callable[..., str]]) -> str:
    """A page's text with its tables as the JSON files have them now.

    Args:
        text: of the page.
        tables: what makes each table, by the name in its first comment. Words after the name are
            passed on.

    Raises:
        InputError: a table's name is unknown, or a JSON file is missing or damaged.
    """

    def table(match):
        name, *arguments = match[2].split()
        if name not in tables:
            raise InputError(f"expected a table in {', '.join(tables)}, received {name}")
        return f"{match[1]}{tables[name](*arguments)}\n{match[4]}"

    return _BLOCK.sub(table, text)


def read(name: str) -> Any:
    """What is in `docs/results/NAME.json`.

    Raises:
        InputError: it is missing or damaged.
    """
    return load(RESULTS / f"{name}.json")


def load(path: Path) -> Any:
    """What is in a JSON file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"expected a JSON file in {path}: {error}") from error


def markdown(heads: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits after the point; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def ratio(row: dict, key: str, of: str = "repeat_last") -> float | None:
    """An error of one horizon as a share of the same error under a guess; None if not measured."""
    error, guess = row.get(key), row.get(f"{key}_{of}")
    return error / guess if error is not None and guess else None


def rewards(precisions: dict[str, float | None]) -> str:
    """The average precision of each sign of the reward that occurs."""
    found = [(sign, value) for sign, value in precisions.items() if value is not None]
    if len(found) == 1:
        return number(found[0][1], 2)
    words = {"-1": "lost", "1": "won"}
    return ", ".join(f"{words[sign]} {value:.2f}" for sign, value in found) or "-"


def by_speed(value: float) -> str:
    """A speed: two digits after the point where it is small."""
    return number(value, 2 if value < 10 else 0)


def clock(seconds: int) -> str:
    """Minutes and seconds."""
    return f"{seconds // 60}:{seconds % 60:02d}"


def source(*names: str, note: str = "One run each.") -> str:
    """The line below a table that says how its files were made. It groups those made alike.

    Args:
        names: of the files, without `.json`.
        note: what else it says.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(made_by(provenance(name)), []).append(f"`{name}.json`")
    made = "; ".join(f"{', '.join(files)} ({how})" for how, files in groups.items())
    return f"\n\n{SOURCE}{made}. {note}".rstrip() + "*"


def copied(name: str, made: dict) -> str:
    """The line below a table whose figures were copied, by what the file itself says of them."""
    return f"\n\n{SOURCE}`{name}.json` ({made_by(made)}).*"


def provenance(name: str) -> dict:
    """How a file was made: by itself, or by `provenance.json` where it is older than that.

    Raises:
        InputError: it does not say so, and has changed since `provenance.json` did.
    """
    made = read(name)
    if isinstance(made, dict) and "made" in made:
        return made["made"]
    known = read("provenance").get(name, {})
    if known.get("sha256") != digest(name):
        raise InputError(
            f"expected docs/results/{name}.json to say how it was made, or to be the file that "
            "provenance.json describes. Measure it again."
        )
    return known


def digest(name: str) -> str:
    """Tells a file in docs/results from others."""
    return hashlib.sha256((RESULTS / f"{name}.json").read_bytes()).hexdigest()[:16]


def made_by(made: dict) -> str:
    """Commit, date and machine, and what is to be said of it."""
    commit, machine = made["commit"], made["machine"]
    parts = [
        f"commit {commit}" if commit else "commit not recorded",
        made["date"],
        f"machine {machine}" if machine else "machine not recorded",
    ]
    return "; ".join(filter(None, [", ".join(parts), made.get("note")]))

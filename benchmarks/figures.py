"""Writes the tables and pictures of README and docs anew, from docs/results and pretrained.

Tables stand in the pages between comments that name them. Diagrams and plots go to docs/pictures.
Clips need a network and are made by `make clips`. The plot of a training is left out where no
`python -m benchmarks.curve` has written its file.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.diagrams import DIAGRAMS
from benchmarks.pages import DOCS, pages, rewritten
from benchmarks.tables import TABLES
from systems.arguments import Parser
from systems.errors import exit_on_input_error, say
from systems.files import write_whole

PICTURES = DOCS / "pictures"


def main() -> None:
    """Writes all of them."""
    parser().parse_args()
    with exit_on_input_error():
        write_tables()
        write_pictures(PICTURES)


def parser() -> Parser:
    """The command line."""
    command = "python -m benchmarks.figures"
    return Parser(__doc__, prog=command, examples=[command])


def write_tables() -> None:
    """Writes the tables of all pages."""
    for page in pages():
        text = page.read_text()
        new = rewritten(text, TABLES)
        if new != text:
            write_whole(page, lambda partial, new=new: partial.write_text(new))
            say(f"wrote the tables of {page.name}")


def write_pictures(directory: Path) -> None:
    """Writes the diagrams and plots."""
    from benchmarks.plots import draw, drawable

    directory.mkdir(parents=True, exist_ok=True)
    for name, diagram in DIAGRAMS.items():
        write_whole(directory / name, lambda partial, make=diagram: partial.write_text(make()))
    plots = drawable()
    for name in plots:
        draw(name, directory / name)
    say(f"wrote {len(DIAGRAMS) + len(plots)} pictures to {directory}")


if __name__ == "__main__":
    main()

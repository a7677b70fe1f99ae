"""The tables of the weights that this repository ships, from pretrained/*.json."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import pages
from benchmarks.pages import SOURCE, TITLES, made_by, markdown, number, ratio
from utils.checkpoint_flags import VARIANTS


def shipped() -> dict[tuple[str, str], dict]:
    """What the JSON files say, by game and variant."""
    found = {}
    for game in TITLES:
        for variant in VARIANTS:
            path = pages.SHIPPED / f"{game}_{variant}.json"
            if path.exists():
                found[game, variant] = pages.load(path)
    return found


def readme() -> str:
    """The README's own: a row for each game, paper before compression."""
    described, horizons = shipped(), ("1", "5", "10", "30")
    heads = ["", "paper: 1 step", *horizons[1:], "compression: 1 step", *horizons[1:]]
    rows = []
    for game, title in TITLES.items():
        cells = []
        for variant in VARIANTS:
            if of_both := described.get((game, variant)):
                errors = of_both["figures"]["horizons"]
                cells += [number(ratio(errors[horizon], "mse"), 2) for horizon in horizons]
            else:
                cells += ["-"] * len(horizons)
        rows.append([title, *cells])
    more = "[shipped weights](docs/results.md#shipped-weights), with commits and machines"
    return markdown(heads, rows) + f"\n\n{SOURCE}{more}.*"


def errors() -> str:
    """A row for each file of weights, with what its errors stand beside."""
    heads = ["", "1 step", "5", "10", "30", "100", "moving, 10", "controlled, 10", "shuffled, 10"]
    heads += ["over recall, 10", "30", "reward within 5"]
    rows, made = [], {}
    for (game, variant), description in shipped().items():
        figures = description["figures"]
        of = figures["horizons"]
        rows.append(
            [
                f"{TITLES[game]}, {variant}",
                *(number(ratio(of[horizon], "mse")) for horizon in ("1", "5", "10", "30", "100")),
                number(ratio(of["10"], "mse_moving")),
                number(ratio(of["10"], "mse_controlled")),
                number(ratio(of["10"], "mse_controlled", "shuffled_actions")),
                *(number(ratio(of[horizon], "mse", "recall"), 2) for horizon in ("10", "30")),
                pages.rewards(figures["reward_average_precision_within"]["5"]),
            ]
        )
        how = description["made"]
        commit = (how["commit"] or "")[:7]  # none outside Git
        key = made_by({**how, "commit": commit, "machine": f"of {how['cores']} cores"})
        made.setdefault(key, []).append(f"`{game}_{variant}.json`")
    source = "; ".join(f"{', '.join(files)} ({how})" for how, files in made.items())
    return markdown(heads, rows) + f"\n\n{SOURCE}pretrained/: {source}. One run each.*"


TABLES: dict[str, Callable[..., str]] = {"readme": readme, "shipped": errors}

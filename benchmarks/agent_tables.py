"""The table of agents that have only played the compressed game, from docs/results/agent_*.json."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from benchmarks import pages
from benchmarks.pages import TITLES, markdown, read, source

# What SimPLe's agents earned, which learned in a model but gathered its data themselves, 100,000
# steps: Kaiser et al. 2020, arXiv 1903.00374.
SIMPLE = {"freeway": 16.7, "breakout": 16.4, "ms_pacman": 1480.0}

# What `make agent`, its SEED and `make agent-again` add to a file's name, and to its row's.
ROUNDS = {"": "", "_seed_1": ", seed 1", "_seed_2": ", seed 2", "_again": ", one round more"}


def agents() -> str:
    """A row for each game: what the agent earns in the real one, beside random play and SimPLe."""
    heads = ["", "imagined steps", "minutes", "agent", "spread", "sampled"]
    heads += ["learned in the emulator", "random", "held at random", "best constant action"]
    heads += ["SimPLe"]
    rows, files = [], []
    for game, round_ in product(TITLES, ROUNDS):
        name = f"agent_{game}{round_}"
        if not (pages.RESULTS / f"{name}.json").exists():
            continue
        files.append(name)
        ceiling = f"agent_{game}_emulator"
        if round_ or not (pages.RESULTS / f"{ceiling}.json").exists():
            in_the_emulator = "-"
        else:
            files.append(ceiling)
            in_the_emulator = _mean(read(ceiling)["players"], "agent")
        result = read(name)
        players = result["players"]
        agent = players["agent"]
        low, high = agent["interval"]
        rows.append(
            [
                TITLES[game] + ROUNDS[round_],
                f"{result['steps'] / 1e6:.1f} million",
                f"{result['steps'] / result['steps_per_second'] / 60:.0f}",
                f"{agent['mean']:,.1f} [{low:,.1f}, {high:,.1f}]",
                f"{agent['spread']:,.1f}",
                _mean(players, "drawn"),
                in_the_emulator,
                *(_mean(players, name) for name in ("random", "persistent", "constant")),
                f"{SIMPLE[game]:,.1f}" if game in SIMPLE else "-",
            ]
        )
    note = "Brackets: 95 % intervals of the mean over whole games. One training a row."
    return markdown(heads, rows) + source(*files, note=note)


def _mean(players, name):
    """What a player earns; "-" if it has not been measured."""
    return f"{players[name]['mean']:,.1f}" if name in players else "-"


TABLES: dict[str, Callable[..., str]] = {"agents": agents}

"""The plots of README and docs, made from the JSON files in docs/results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import pages
from benchmarks.pages import TITLES, ratio, read
from benchmarks.shipped_tables import shipped
from benchmarks.speed_tables import PEERS
from benchmarks.tables import GAMES, PLANS, SIMULATORS
from systems.files import write_whole

COLORS = {"paper": "#1d4ed8", "compression": "#c2410c"}
SIMULATOR_NAMES = {
    "compressed": ("imagined", "#c2410c"),
    "emulator": ("emulator", "#2f7d4f"),
    "none": ("random", "#94a3b8"),
}


def errors(figure) -> None:
    """Shipped weights: the error over the horizon as a share of repeating the last frame."""
    described = shipped()
    games = [game for game in TITLES if (game, "paper") in described]
    axes = figure.subplots(1, len(games), sharey=True)
    for axis, game in zip(axes, games, strict=True):
        for variant, color in COLORS.items():
            if (game, variant) not in described:
                continue
            horizons = described[game, variant]["figures"]["horizons"]
            steps = [int(horizon) for horizon in horizons]
            for key, style, what in (("mse", "-", "all"), ("mse_controlled", ":", "controlled")):
                values = [ratio(row, key) for row in horizons.values()]
                name = f"{variant}, {what} pixels"
                axis.plot(steps, values, style, color=color, label=name, lw=2)
        axis.axhline(1, color="0.3", lw=1, ls="--", label="repeating the last frame")
        axis.set(title=TITLES[game], xscale="log", yscale="log", xlabel="steps predicted")
        axis.set_xticks(shown := [1, 10, 100], map(str, shown))
        axis.set_yticks(shown := [0.01, 0.03, 0.1, 0.3, 1], map(str, shown))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("error, share of repeating\nthe last frame (lower is better)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def planning(figure) -> None:
    """What the planner earns with each simulator."""
    axes = figure.subplots(1, len(GAMES))
    for axis, (game, title) in zip(axes, GAMES.items(), strict=True):
        plan = read(PLANS[game])["simulators"]
        for i, simulator in enumerate(reversed(SIMULATORS)):
            name, color = SIMULATOR_NAMES[simulator]
            mean, (low, high) = (plan[simulator][key] for key in ("mean_return", "interval"))
            axis.bar(name, mean, color=color)
            axis.errorbar(i, mean, [[mean - low], [high - mean]], color="0.2", capsize=4)
        axis.axhline(0, color="0.3", lw=1)
        axis.set_title(title)
        axis.tick_params(axis="x", labelsize=9)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("points, 95 % intervals")


def speed(figure) -> None:
    """How many times as fast as its peers this code is."""
    rows = read("benchmarks_a")["rows"]
    rows = [row for row in rows if row["peer"] and "data loading" not in row["work"]][::-1]
    axis = figure.subplots()
    values = [row["ratio"] for row in rows]
    peers = [PEERS.get(row["peer_is"], row["peer_is"]) for row in rows]
    works = [row["work"].partition(" (")[0] for row in rows]
    labels = [f"{work}: beside {peer}" for work, peer in zip(works, peers, strict=True)]
    bars = axis.barh(range(len(rows)), values, color="#1d4ed8")
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axis.bar_label(bars, fmt="%.1f", padding=4, bbox=white)
    axis.set_yticks(range(len(rows)), labels)
    axis.axvline(1, color="0.3", lw=1, ls="--")
    axis.set(xlabel="times as fast, two cores without a GPU")
    axis.margins(x=0.1)


def demo(figure) -> None:
    """How loss and errors fall while `make demo` trains, by the clock; stages are shaded."""
    kept = read("demo")
    loss, error = figure.subplots(2, 1, sharex=True)
    loss.plot(*zip(*kept["loss"], strict=True), color="0.3", lw=2)
    loss.set(yscale="log", ylabel="loss of pretraining")
    for color, (horizon, points) in zip(
        ("#1d4ed8", "#2f7d4f", "#c2410c"), kept["errors"].items(), strict=True
    ):
        name = f"{horizon} step{'s' if horizon != '1' else ''} ahead"
        error.plot(*zip(*points, strict=True), "o-", color=color, label=name, lw=2, ms=4)
    error.set(yscale="log", xlabel="minutes", ylabel="error, share of\nrepeating the last frame")
    error.legend(fontsize="small")
    for axis in (loss, error):
        for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            which(lambda value, _: f"{value:g}")
        axis.tick_params(axis="y", which="both", labelsize=8)
    for i, stage in enumerate(kept["stages"]):
        for axis in (loss, error):
            axis.axvspan(stage["began"], stage["ended"], color="0.95" if i % 2 else "0.88", lw=0)
        middle = (stage["began"] + stage["ended"]) / 2
        name = stage["name"].partition("_")[2].replace("_", " ")
        loss.text(middle, 1.02, name, transform=loss.get_xaxis_transform(), ha="center", size=8)


class Plot(NamedTuple):
    """What draws a plot, its size in inches, and the files in docs/results that it needs."""

    function: Callable
    size: tuple[float, float]
    files: tuple[str, ...]


PLOTS = {
    "errors.png": Plot(errors, (11, 3.6), ()),
    "planning.png": Plot(planning, (11, 2.8), tuple(PLANS.values())),
    "speed.png": Plot(speed, (10, 5), ("benchmarks_a",)),
    "demo.png": Plot(demo, (9, 5), ("demo",)),
}


def drawable() -> list[str]:
    """The plots whose files are there."""
    return [
        name
        for name, plot in PLOTS.items()
        if all((pages.RESULTS / f"{file}.json").exists() for file in plot.files)
    ]


def draw(name: str, path: Path) -> None:
    """Draws one of `PLOTS` into a file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    plot = PLOTS[name]
    figure = pyplot.figure(figsize=plot.size, layout="constrained")
    plot.function(figure)
    # Without the program's version, so that the same figures make the same file.
    metadata = {"Software": None}
    write_whole(path, lambda partial: figure.savefig(partial, dpi=100, metadata=metadata))
    pyplot.close(figure)

"""Draws errors over the horizon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from systems.errors import InputError
from systems.files import write_whole

FORMATS = (".png", ".pdf", ".svg")
TITLES = {
    "mse": "all pixels",
    "mse_moving": "moving pixels",
    "mse_controlled": "controlled pixels",
}


def check_plot(path: Path) -> None:
    """Raises InputError unless the path ends as a picture does that can be drawn."""
    if path.suffix not in FORMATS:
        raise InputError(f"expected --plot to end in one of {FORMATS}, received {path}")


def draw_errors(results: Sequence[dict], path: Path) -> None:
    """Draws the errors of all checkpoints and of the baselines, one panel for each pixel set.

    Args:
        results: of `utils.watching.measure.HeldOutPlay.measure`, on the same windows.
        path: of the picture, ending in one of `FORMATS`.
    """
    # Here, because it takes half a second to import and few ask for a plot.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = labels([result["predictions"] or result["checkpoint"] for result in results])
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for axis, (key, title) in zip(axes, TITLES.items(), strict=True):
        for i, (result, name) in enumerate(zip(results, names, strict=True)):
            _line(axis, result, key, name, f"C{i}", "-")
            shuffled = f"{name}, shuffled actions"
            _line(axis, result, f"{key}_shuffled_actions", shuffled, f"C{i}", ":")
        _line(axis, results[0], f"{key}_repeat_last", "repeat last frame", "0.4", "--")
        _line(axis, results[0], f"{key}_mean_frame", "mean frame", "0.7", "--")
        _line(axis, results[0], f"{key}_recall", "recall of training play", "0.2", "-.")
        axis.set(title=title, xlabel="steps predicted", xscale="log", yscale="log")
        axis.set_xticks(ticks := [int(h) for h in results[0]["horizons"]], map(str, ticks))
        axis.tick_params(axis="x", which="minor", bottom=False)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean squared error, levels squared")
    axes[0].legend(fontsize="small")
    figure.suptitle(f"{results[0]['game']}, held-out play, {results[0]['num_windows']} windows")
    write_whole(path, lambda partial: figure.savefig(partial, dpi=120))
    pyplot.close(figure)


def _line(axis, result, key, label, color, style):
    """One error over the horizon, with its intervals."""
    points = [
        (int(horizon), row[key], row["intervals"].get(key, [row[key]] * 2))
        for horizon, row in result["horizons"].items()
        if row[key] is not None
    ]
    if points:
        steps, values, intervals = zip(*points, strict=True)
        axis.plot(steps, values, style, color=color, label=label, marker=".")
        axis.fill_between(steps, *zip(*intervals, strict=True), color=color, alpha=0.15, lw=0)


def labels(directories: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the checkpoints' paths that tell them apart."""
    paths = [Path(directory).resolve().parts for directory in directories]
    for count in range(1, max(map(len, paths)) + 1):
        ends = ["/".join(parts[-count:]) for parts in paths]
        if len(set(ends)) == len(ends):
            break
    return ends

"""The text tables that `evaluate.py` prints."""

from __future__ import annotations

from collections.abc import Sequence

# Of each table: head, digits, key and meaning of its columns.
ERRORS = (
    ("step", 0, "horizon", "how many steps after the last real frame"),
    ("mse", 2, "mse", "mean squared error over all pixels, grey (RGB) levels squared, 0 to 255"),
    ("psnr", 1, "psnr", "of mse, decibels: 10 log10(255^2 / mse)"),
    ("ssim", 3, "ssim", "structural similarity, 1: alike"),
    ("ratio", 3, "ratio", "mse over that of repeating the last real frame; below 1 is better"),
    ("moving", 3, "ratio_moving", "that ratio over the pixels that change within a window"),
    ("controlled", 3, "ratio_controlled", "that ratio over the pixels that the player decides"),
    (
        "shuffled",
        3,
        "ratio_shuffled",
        "their error over that under other actions; 1: ignores them",
    ),
    ("mean frame", 3, "ratio_mean_frame", "mse over that of the mean training frame"),
)
MORE = (
    ("step", 0, "horizon", None),
    ("recall", 3, "ratio_recall", "mse over that of playing back the most alike training moment"),
    ("moving", 3, "ratio_moving_recall", "that ratio over the pixels that change"),
    ("controlled", 3, "ratio_controlled_recall", "that ratio over the pixels of the player"),
    ("seen", 2, "seen", "share of the true frames that stand in the training set bit for bit"),
    ("object", 2, "object_present", "share of windows where the player's object is predicted"),
    ("off by", 1, "object_offset", "how many pixels from its place it is there"),
    ("reward-1", 2, "reward-1", "average precision of points lost within so many steps"),
    ("reward+1", 2, "reward1", "average precision of points won; -: there were none"),
)
_LEAST_WIDTH = 7  # of a column


def columns(results: dict) -> str:
    """The figures that the documents quote, by horizon; `columns_explained` explains them.

    Args:
        results: of `utils.watching.evaluation.evaluate`, measured beside everything.
    """
    return "\n\n".join(_table(columns, results) for columns in (ERRORS, MORE))


def _table(columns: Sequence[tuple], results: dict) -> str:
    widths = [max(len(head), _LEAST_WIDTH) + 1 for head, *_ in columns]

    def line(cells):
        return "".join(f" {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    lines = [line(head for head, *_ in columns)]
    within = (results["reward"] or {}).get("average_precision_within", {})
    for horizon, row in results["horizons"].items():
        known = {"horizon": int(horizon), **row}
        known |= {f"reward{sign}": value for sign, value in within.get(horizon, {}).items()}
        lines.append(line(number(known.get(key), digits) for _, digits, key, _ in columns))
    return "\n".join(lines)


def columns_explained() -> str:
    """A line for each column of `columns`."""
    lines = [f"{head:>14}  {meaning}" for head, *_, meaning in ERRORS]
    lines += [f"{head:>14}  {meaning}" for head, *_, meaning in MORE if meaning]
    return "\n".join(lines)


def number(value: float | None, digits: int = 2) -> str:
    """A figure as it is printed; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"

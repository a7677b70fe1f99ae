"""Prints the tables of docs/results.md from what `make results` has measured.

    python -m benchmarks.results docs/results

Of the files that `evaluate.py --output` wrote, such as `freeway_paper.json`: one table with a row
for each checkpoint, then one of each file with a row for each horizon. Errors are shares of
repeating the last frame.
"""

import json
import sys
from pathlib import Path

SUMMARY_HORIZONS = ("1", "5", "10", "30", "100")


def main(directory: str) -> None:
    """Prints the summary of all files and a table of each."""
    measured = {}
    for path in sorted(Path(directory).glob("*.json")):
        found = json.loads(path.read_text())
        found = found if isinstance(found, list) else [found]
        if "horizons" in found[0]:
            measured[path.stem] = found
    print(summary(measured))
    for name, results in measured.items():
        print(f"\n### {name}\n")
        print(table(results))


def summary(measured: dict[str, list[dict]]) -> str:
    """One row for each checkpoint of each file, as Markdown.

    The error over all pixels by horizon, that of what the player decides at 5 steps, the latter
    over the same checkpoint's under other windows' actions, and the reward's average precision
    within 5 steps, for each sign that occurs.
    """
    heads = ["", *SUMMARY_HORIZONS, "controlled at 5", "over others' actions", "reward within 5"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, results in measured.items():
        for result in results:
            rows = result["horizons"]
            cells = [
                _ratio(rows.get(horizon, {}), "mse", "mse_repeat_last")
                for horizon in SUMMARY_HORIZONS
            ]
            at_five = rows.get("5", {})
            cells += [
                _ratio(at_five, "mse_controlled", "mse_controlled_repeat_last"),
                _ratio(at_five, "mse_controlled", "mse_controlled_shuffled_actions"),
                _reward_within_5(result),
            ]
            label = name if len(results) == 1 else f"{name}: {Path(result['checkpoint']).name}"
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(results: list[dict]) -> str:
    """Errors over those of repeating the last frame, as Markdown.

    For each checkpoint: all pixels, those that move, those that the player's choice decides, and
    the latter over those of the same checkpoint under other windows' actions.
    """
    names = [Path(result["checkpoint"]).name for result in results]
    heads = [f"{name}: {what}" for name in names for what in ("all", "moving", "controlled")]
    heads += [f"{name}: controlled, over others' actions" for name in names]
    lines = [f"| steps | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for horizon in results[0]["horizons"]:
        rows = [result["horizons"][horizon] for result in results]
        cells = [
            _ratio(row, key, f"{key}_repeat_last")
            for row in rows
            for key in ("mse", "mse_moving", "mse_controlled")
        ]
        cells += [_ratio(row, "mse_controlled", "mse_controlled_shuffled_actions") for row in rows]
        lines.append(f"| {horizon} | {' | '.join(cells)} |")
    for result, name in zip(results, names, strict=True):
        rates = ", ".join(f"{value:.2%}" for value in result["reward"]["positive_rate"].values())
        lines.append(
            f"\n{name}: average precision of the reward within 5 steps "
            f"{_reward_within_5(result)} (there in {rates} of the steps)."
        )
    return "\n".join(lines)


def _reward_within_5(result):
    """`+1: 0.51`: the average precision of each sign of which there are any."""
    within = result["reward"]["average_precision_within"].get("5", {})
    told = [f"{int(sign):+d}: {value:.2f}" for sign, value in within.items() if value is not None]
    return ", ".join(told) or "-"


def _ratio(row, key, other):
    if row.get(key) is None or not row.get(other):
        return "-"
    return f"{row[key] / row[other]:.3f}"


if __name__ == "__main__":
    main(sys.argv[1])

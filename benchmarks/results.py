"""Prints the tables of docs/results.md from what `make results` has measured.

    python -m benchmarks.results docs/results

Of each file that `evaluate.py --output` wrote, such as `freeway_paper.json`, a table: rows are
horizons, columns the checkpoints; figures are shares of repeating the last frame.
"""

import json
import sys
from pathlib import Path


def main(directory: str) -> None:
    """Prints a table for each game."""
    for path in sorted(Path(directory).glob("*.json")):
        found = json.loads(path.read_text())
        if "horizons" not in (found if isinstance(found, dict) else found[0]):
            continue
        print(f"\n### {path.stem}\n")
        print(table(found if isinstance(found, list) else [found]))


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
        within = result["reward"]["average_precision_within"].get("5", {})
        told = ", ".join(
            f"{int(sign):+d}: {'-' if value is None else format(value, '.2f')}"
            for sign, value in within.items()
        )
        rate = result["reward"]["positive_rate"]
        rates = ", ".join(f"{value:.2%}" for value in rate.values())
        lines.append(
            f"\n{name}: average precision of the reward within 5 steps {told} "
            f"(there in {rates} of the steps)."
        )
    return "\n".join(lines)


def _ratio(row, key, other):
    if row.get(key) is None or not row.get(other):
        return "-"
    return f"{row[key] / row[other]:.3f}"


if __name__ == "__main__":
    main(sys.argv[1])

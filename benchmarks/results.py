"""Prints the tables of docs/results.md from what `make results` has measured.

    python -m benchmarks.results docs/results

It reads the files that `evaluate.py --json` wrote, such as `freeway_paper.json`, and prints one
table with a row for each checkpoint, then one of each file with a row for each horizon. Errors are
shares of the repeat-last-frame baseline's.
"""

import json
from pathlib import Path

from systems.arguments import Parser
from systems.errors import InputError, exit_on_input_error, user_path

SUMMARY_HORIZONS = ("1", "5", "10", "30", "100")


def main() -> None:
    """Prints the summary of all files and a table of each."""
    directory = parser().parse_args().directory
    with exit_on_input_error():
        measured = read_results(directory)
    print(summary(measured))
    for name, results in measured.items():
        print(f"\n### {name}\n")
        print(table(results))


def parser() -> Parser:
    """The command line."""
    command = "python -m benchmarks.results"
    parser = Parser(__doc__, prog=command, examples=[f"{command} docs/results"])
    parser.add_argument("directory", type=user_path, help="of the JSON files")
    return parser


def read_results(directory: Path) -> dict[str, list[dict]]:
    """What `evaluate.py` has measured, by the files' names, a list of checkpoints each.

    Raises:
        InputError: there is no such file, or one cannot be read.
    """
    measured = {}
    for path in sorted(directory.glob("*.json")):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"expected a JSON file in {path}: {error}") from error
        results = content if isinstance(content, list) else [content]
        if all(isinstance(result, dict) and "horizons" in result for result in results):
            measured[path.stem] = results
    if not measured:
        raise InputError(
            f"expected a directory with files of evaluate.py --json, found none in {directory}"
        )
    return measured


def summary(measured: dict[str, list[dict]]) -> str:
    """One row for each checkpoint of each file, as Markdown.

    A row has the error over all pixels by horizon and that at controlled pixels after 5 steps, as
    shares of the baseline's; the latter as a share of the same checkpoint's error under shuffled
    actions; and the reward's average precision within 5 steps, for each sign that occurs.
    """
    heads = ["", *SUMMARY_HORIZONS, "controlled at 5", "over shuffled actions", "reward within 5"]
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
    """Errors as shares of the repeat-last-frame baseline's by horizon, as Markdown.

    For each checkpoint: all, moving and controlled pixels, and the latter as a share of the same
    checkpoint's error under shuffled actions.
    """
    names = [Path(result["checkpoint"]).name for result in results]
    heads = [f"{name}: {what}" for name in names for what in ("all", "moving", "controlled")]
    heads += [f"{name}: controlled, over shuffled actions" for name in names]
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
    """`+1: 0.51`: the average precision of each sign that occurs."""
    within = result["reward"]["average_precision_within"].get("5", {})
    cells = [f"{int(sign):+d}: {value:.2f}" for sign, value in within.items() if value is not None]
    return ", ".join(cells) or "-"


def _ratio(row, key, other):
    """One error as a share of another."""
    if row.get(key) is None or not row.get(other):
        return "-"
    return f"{row[key] / row[other]:.3f}"


if __name__ == "__main__":
    main()

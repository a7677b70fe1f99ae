"""The table of `python -m benchmarks --only=quality`."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.pages import TITLES, markdown, number, read, source

FILE = "peers_quality"
MODELS = {
    "ours": "ours",
    "2016": "the same network, Adam from random weights",
    "oh": "the action after the LSTM, as Oh et al.",
    "rssm": "discrete latents, as DreamerV3",
}
# Head, horizon and key of each error.
ERRORS = (
    ("1 step", "1", "ratio"),
    ("5", "5", "ratio"),
    ("10", "10", "ratio"),
    ("30", "30", "ratio"),
    ("controlled, 5", "5", "ratio_controlled"),
    ("over recall, 10", "10", "ratio_recall"),
)


def quality() -> str:
    """A row for each game and model; the least error of a game is bold."""
    rows = read(FILE)["rows"]
    games = {row["game"]: row["settings"] for row in rows}
    heads = ["", "parameters", "multiplications a step", "minutes", "steps taken"]
    lines = []
    for game in games:
        of_game = {row["model"]: row for row in rows if row["game"] == game}
        errors = {model: _errors(row) for model, row in of_game.items()}
        least = [
            min((value for value in column if value is not None), default=None)
            for column in zip(*errors.values(), strict=True)
        ]
        for model in [name for name in MODELS if name in of_game]:
            row = of_game[model]
            lines.append(
                [
                    f"{TITLES.get(game, game)}: {MODELS[model]}",
                    f"{row['parameters'] / 1e6:.1f} million",
                    f"{row['multiplications'] / 1e6:.0f} million",
                    number(row["seconds"] / 60, 1),
                    f"{row['steps']:,}",
                    *map(_cell, errors[model], least),
                ]
            )
    frames = " and ".join(sorted({f"{of['num_training_frames']:,}" for of in games.values()}))
    note = (
        f"Trained on {frames} frames. Minutes hold imports and compiling, for all alike. "
        "Errors are shares of that of repeating the last frame, or of recall; bold: the least."
    )
    return markdown([*heads, *(head for head, *_ in ERRORS)], lines) + source(FILE, note=note)


def _errors(row):
    return [row["horizons"].get(horizon, {}).get(key) for _, horizon, key in ERRORS]


def _cell(value, least):
    shown = number(value)
    return f"**{shown}**" if value is not None and shown == number(least) else shown


TABLES: dict[str, Callable[..., str]] = {"quality": quality}

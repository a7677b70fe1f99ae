"""Says what a variant's stages have reached, what each changed, and how to go on.

    python -m utils.watching.summary checkpoints/freeway/lstm_84x84x1

`make demo` and `make train` end with it. The figures are those that each stage measured on test
play when it finished.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from systems.arguments import TRAINED, Parser
from systems.errors import InputError, exit_on_input_error, say, user_path
from utils.checkpoint import Checkpoint, digest
from utils.config import CONFIG

_ORDER = ("seq_1", "seq_3", "seq_5", "seq_5_reward")
_TOOLS = (
    "play.py --checkpoint {last}",
    "generate_video.py --checkpoint {last} --video {game}.mp4",
    "evaluate.py --checkpoint {last} --plot {game}.png",
    "plan.py --checkpoint {last}",
)


def finished_stages(directory: str | Path) -> dict[str, list[Checkpoint]]:
    """Returns the finished stages of each variant, in the order of training.

    Args:
        directory: of a game and model: `<train_dir>/<game>/<model>`.

    Raises:
        InputError: there are none.
    """
    stages: dict[str, list[Checkpoint]] = {}
    for variant in ("paper", "compress"):
        for name in _ORDER:
            path = Path(directory, f"{variant}_{name}")
            # A stage whose data are still to be recorded has a directory and nothing in it.
            if (path / CONFIG).is_file() and (checkpoint := Checkpoint(path)).config.finished:
                stages.setdefault(variant, []).append(checkpoint)
    if not stages:
        raise InputError(
            f"expected the directory of a game and model with finished stages, such as {TRAINED}, "
            f"received {directory}"
        )
    return stages


def summary(stages: Sequence[Checkpoint]) -> str:
    """Returns the report of one variant's stages, several lines of text."""
    first = stages[0].config
    horizons = list(first.results["horizons"])
    lines = [
        f"{first.game}, {first.model}, {first.variant} variant: error on test play over that of "
        "repeating the last frame,",
        "by steps predicted without seeing a frame. 0 is perfect, 1 no better than the last frame.",
        "",
        f"{'stage':22}" + "".join(f"{horizon:>8}" for horizon in horizons) + "   what it changed",
    ]
    for before, checkpoint in zip([None, *stages], stages, strict=False):
        ratios = (_ratio(checkpoint, horizon) for horizon in horizons)
        cells = "".join(f"{'-' if ratio is None else f'{ratio:.3f}':>8}" for ratio in ratios)
        lines.append(f"{checkpoint.config.stage:22}{cells}   {_change(before, checkpoint)}")
    if stages[-1].predicts_rewards:
        lines += _of_rewards(stages[-1].config.results["reward"]["average_precision_within"])
    return "\n".join(lines)


def _of_rewards(within):
    """How well rewards are predicted up to each horizon, as lines; none where none is earned."""
    told = [
        f"{int(sign):+d} within {horizon} steps: {value:.2f}"
        for horizon, signs in within.items()
        for sign, value in signs.items()
        if value is not None
    ]
    return ["", f"average precision of the reward's sign: {', '.join(told)}"] if told else []


def _ratio(checkpoint, horizon):
    row = checkpoint.config.results["horizons"].get(horizon)
    return row["mse"] / row["mse_repeat_last"] if row and row["mse_repeat_last"] else None


def _change(before, checkpoint):
    """What a stage changed at the steps that it trains, or that it kept the weights before it."""
    if before is None:
        return ""
    if digest(before.directory) == digest(checkpoint.directory):
        return f"nothing: it kept the weights of {before.config.stage}"
    horizon = str(checkpoint.config.training.decoded)
    ours, theirs = _ratio(checkpoint, horizon), _ratio(before, horizon)
    if not (ours and theirs):
        return "the weights"
    text = f"{ours / theirs - 1:+.0%} error at {horizon} steps"
    learns = checkpoint.predicts_rewards and not before.predicts_rewards
    return text + ("; it learned reward and end" if learns else "")


def to_go_on(last: Checkpoint) -> str:
    """Returns the commands that use a checkpoint, as they can be typed here."""
    python = os.path.relpath(sys.executable)
    python = shlex.quote(sys.executable if python.startswith("..") else python)
    tools = _TOOLS if last.predicts_rewards else _TOOLS[:-1]
    directory = shlex.quote(str(last.directory))
    lines = [tool.format(last=directory, game=last.config.game) for tool in tools]
    return "\n".join(["to go on:", *(f"  {python} {line}" for line in lines)])


def parser() -> Parser:
    """The command line."""
    command = "python -m utils.watching.summary"
    parser = Parser(
        "Says what the stages have reached, what each changed, and how to go on.",
        prog=command,
        examples=[f"{command} {TRAINED}"],
    )
    parser.add_argument(
        "directory", type=user_path, metavar="DIR", help=f"of a game and model, such as {TRAINED}"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `python -m utils.watching.summary`."""
    directory = parser().parse_args(arguments).directory
    with exit_on_input_error():
        for checkpoints in finished_stages(directory).values():
            say(f"\n{summary(checkpoints)}\n\n{to_go_on(checkpoints[-1])}")


if __name__ == "__main__":
    main()

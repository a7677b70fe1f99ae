"""Measures this machine, this software and its peers, and prints one table.

Ours and the peer take turns, each in a process of its own. The table shows medians. The peer is the
same network in PyTorch (torch.compile, fused Adam, bfloat16 autocast where that is faster), which
needs `pip install -r benchmarks/requirements.txt`. "2016" is the same network in Keras, run frame
by frame in float32. "Limit" is the share of what the machine's matrix products, or its memory,
allow the network as it is written. Imagination by one matrix an action needs fewer operations and
may pass that limit.

--only=quality measures something else: how well this model and peers predict after equal minutes of
training on the same frames. It takes four times --minutes a game, and more, and is not among what
is measured without --only. See benchmarks/quality.py.

With KERAS_BACKEND=jax on a machine with an NVIDIA GPU, both sides compute there, with larger
batches and without "2016". TensorFlow need not be installed for that.
"""

import argparse
import tempfile
from pathlib import Path

from systems.arguments import Parser, add_json
from systems.errors import (
    InputError,
    check_writable,
    exit_on_input_error,
    positive_number,
    user_path,
    whole_number,
)
from utils.start import import_keras, prepare

SECTIONS = ("train", "imagine", "data", "record")
QUALITY = "quality"


def main() -> None:
    """Measures by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        if args.json:
            check_writable(args.json)
        if args.only == QUALITY:
            measure_quality(args)
            return
        if misplaced := sorted(set(_QUALITY_DEFAULTS) & set(vars(args))):
            raise InputError(
                f"expected --only={QUALITY} beside --{misplaced[0]}, received it without"
            )
        sections = [args.only] if args.only else SECTIONS
        measure_and_print(sections, args.rounds, args.num_frames, args.json)


def parser() -> Parser:
    """The command line."""
    command = "python -m benchmarks"
    parser = Parser(
        __doc__,
        prog=command,
        examples=[
            command,
            f"{command} --only imagine --rounds 1 --json results.json",
            f"{command} --only quality --json docs/results/peers_quality.json",
        ],
    )
    add = parser.add_argument
    add("--only", choices=[*SECTIONS, QUALITY], help="this section alone")
    add("--rounds", type=whole_number(1), default=3, help="turns of ours and the peer")
    add("--num_frames", type=whole_number(1000), default=10_000, help="steps of the data set")
    add_json(add, "also write the table to this file")
    add = parser.add_argument_group("of --only=quality").add_argument
    for name, (kind, default, what) in _QUALITY_DEFAULTS.items():
        shown = "both Pong and Ms. Pac-Man" if default is None else default
        what = f"{what} (default: {shown})"
        add(f"--{name}", type=kind, default=argparse.SUPPRESS, help=what)
    return parser


# Type, default and meaning of each flag that --only=quality alone has.
_QUALITY_DEFAULTS = {
    "minutes": (positive_number, 20.0, "how long each model is trained in each game"),
    "atari_game": (None, None, "this game alone"),
    "num_training_frames": (whole_number(1), 30_000, "steps that all models are trained on"),
    "data_path": (user_path, Path("data"), "directory of all data sets"),
}


def measure_quality(args: argparse.Namespace) -> None:
    """Measures how well models predict, by the command line's flags."""
    from benchmarks.quality import GAMES, Settings, measure
    from systems.atari import game_name

    given = {name: default for name, (_, default, _) in _QUALITY_DEFAULTS.items()}
    given |= {name: value for name, value in vars(args).items() if name in given}
    game = given.pop("atari_game")
    games = GAMES if game is None else [game_name(game)]
    measure(games, lambda game: Settings(game, **given), args.json)


def measure_and_print(
    sections: list[str], rounds: int, num_frames: int, output: Path | None
) -> None:
    """Measures sections and prints a row for each comparison.

    Args:
        sections: of `SECTIONS`.
        rounds: turns of ours and the peer.
        num_frames: steps of the data set.
        output: JSON file of the table, if it is wanted.
    """
    # After the flags are parsed, because this takes seconds.
    import_keras()
    from benchmarks.child import in_new_process
    from benchmarks.comparisons import COMPARISONS
    from systems.controlled import find_controlled
    from systems.files import write_json
    from systems.provenance import made
    from systems.record import record

    with tempfile.TemporaryDirectory() as directory:
        data = str(record("freeway", "persistent", num_frames, 1, directory))
        find_controlled(data)
        limits = in_new_process("limits.machine")
        about = {"made": made(data=1), "limits": limits}
        if limits["device"]:
            about["made"]["machine"] = f"{limits['device']}, {about['made']['machine']}"
        print(
            f"{about['made']['machine']}, {about['made']['date']}: "
            f"{limits['bfloat16'] / 1e9:.0f} GFLOP/s bfloat16, "
            f"{limits['float32'] / 1e9:.0f} float32, {limits['bandwidth'] / 1e9:.0f} GB/s\n"
        )
        heads = f"{'work':62} {'ours':>10} {'peer':>10} {'ratio':>6} {'limit':>6}  peer is"
        print(heads, flush=True)
        rows = []
        for section in sections:
            for row in COMPARISONS[section](rounds, data, limits):
                rows.append(row)
                print(_line(row), flush=True)
        if output:
            write_json(output, {**about, "rows": rows})


def _line(row):
    """A row as text."""

    def number(value):
        return "" if value is None else f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"

    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    limit = "" if row["of_the_limit"] is None else f"{row['of_the_limit']:.2f}"
    return (
        f"{row['work']:62} {number(row['ours']):>10} {number(row['peer']):>10} {ratio:>6} "
        f"{limit:>6}  {row['peer_is'] or ''}"
    )


if __name__ == "__main__":
    main()

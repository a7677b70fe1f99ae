"""Measures this machine, this software and its peers, and prints one table.

Ours and the peer take turns, each in a process of its own. The table shows medians. The peer is the
same network in PyTorch (torch.compile, fused Adam, bfloat16 autocast where that is faster), which
needs `pip install -r benchmarks/requirements.txt`. "2016" is the same network in Keras, run frame
by frame in float32. "Limit" is the share of what the machine's matrix products, or its memory,
allow the network as it is written. Imagination by one matrix an action needs fewer operations and
may pass that limit.

Two things take long and are measured by --only alone. --only=quality says how well this model and
peers predict after equal minutes of training on the same frames: see benchmarks/quality.py. It
takes four times --minutes a game, and more. --only=clock trains the four stages of a variant as
`make train` does, and says where the time goes.

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
QUALITY, CLOCK = "quality", "clock"


def main() -> None:
    """Measures by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        if args.json:
            check_writable(args.json)
        for name, (owners, *_) in _LONG.items():
            if name in args and args.only not in owners:
                expected = " or ".join(f"--only={owner}" for owner in owners)
                raise InputError(f"expected {expected} beside --{name}, received it without")
        if args.only == QUALITY:
            measure_quality(args)
            return
        if args.only == CLOCK:
            measure_clock(args)
            return
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
            f"{command} --only clock --variant paper --json docs/results/clock_paper.json",
        ],
    )
    add = parser.add_argument
    add("--only", choices=[*SECTIONS, QUALITY, CLOCK], help="this section alone")
    add("--rounds", type=whole_number(1), default=3, help="turns of ours and the peer")
    add("--num_frames", type=whole_number(1000), default=10_000, help="steps of the data set")
    add_json(add, "also write the table to this file")
    add = parser.add_argument_group(f"of --only={QUALITY} and --only={CLOCK}").add_argument
    for name, (owners, what, options) in _LONG.items():
        what += f" ({owners[0]} alone)" if len(owners) == 1 else ""
        add(f"--{name}", default=argparse.SUPPRESS, help=what, **options)
    return parser


# Which sections have each flag, what it means, and what it may be.
_LONG = {
    "minutes": (
        (QUALITY,),
        "how long each model is trained in each game (default: 20)",
        {"type": positive_number},
    ),
    "variant": (
        (CLOCK,),
        "whose stages are trained (default: compression)",
        {"choices": ["paper", "compression"]},
    ),
    "atari_game": (
        (QUALITY, CLOCK),
        "this game alone (default: Pong; of quality, Ms. Pac-Man too)",
        {},
    ),
    "num_training_frames": (
        (QUALITY, CLOCK),
        "steps of the training set (default: 30000)",
        {"type": whole_number(1)},
    ),
    "data_path": (
        (QUALITY, CLOCK),
        "directory of all data sets (default: data; of clock, recorded anew and thrown away)",
        {"type": user_path},
    ),
}
NUM_TRAINING_FRAMES = 30_000


def measure_quality(args: argparse.Namespace) -> None:
    """Measures how well models predict, by the command line's flags."""
    from benchmarks.quality import GAMES, Settings, measure
    from systems.atari import game_name

    given = {
        "minutes": 20.0,
        "num_training_frames": NUM_TRAINING_FRAMES,
        "data_path": Path("data"),
    }
    given |= {name: value for name, value in vars(args).items() if name in given}
    games = [game_name(args.atari_game)] if "atari_game" in args else GAMES
    measure(games, lambda game: Settings(game, **given), args.json)


def measure_clock(args: argparse.Namespace) -> None:
    """Measures where the time of a curriculum goes, by the command line's flags."""
    from benchmarks.clock import measure
    from benchmarks.quality import MODEL, POLICY
    from systems.atari import game_name

    given = {"variant": "compression", "num_training_frames": NUM_TRAINING_FRAMES}
    given["data_path"] = None
    given |= {name: value for name, value in vars(args).items() if name in given}
    game = game_name(getattr(args, "atari_game", "pong"))
    measure(game, model=MODEL, policy=POLICY, output=args.json, **given)


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

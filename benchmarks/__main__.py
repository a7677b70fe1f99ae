"""Measures this machine, this software and its peers, and prints one table.

Ours and the peer take turns, each in a process of its own. The table shows medians. The peer is the
same network in PyTorch (torch.compile, fused Adam, bfloat16 autocast where that is faster), which
needs `pip install -r benchmarks/requirements.txt`. "2016" is the same network in Keras, run frame
by frame in float32. Pretraining is compared with the same convolutions, losses and optimizer in
PyTorch, compiled or not, whichever is faster. "Limit" is the share of what the machine's matrix
products, or its memory, allow the network as it is written. Imagination by one matrix an action
needs fewer operations and may pass that limit.

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

SECTIONS = ("pretrain", "train", "imagine", "data", "record")
QUALITY, CLOCK = "quality", "clock"


def main() -> None:
    """Measures by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        if args.json:
            check_writable(args.json)
        for name, (_, _, defaults) in _LONG.items():
            if name in args and args.only not in defaults:
                expected = " or ".join(f"--only={section}" for section in defaults)
                raise InputError(f"expected {expected} beside --{name}, received it without")
        for name in _SHORT:
            if name in args and args.only in (QUALITY, CLOCK):
                raise InputError(f"expected no --{name} beside --only={args.only}, received it")
        if args.only == QUALITY:
            measure_quality(args)
            return
        if args.only == CLOCK:
            measure_clock(args)
            return
        sections = [args.only] if args.only else SECTIONS
        numbers = {name: getattr(args, name, known[-1]) for name, known in _SHORT.items()}
        measure_and_print(sections, output=args.json, **numbers)


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
    for name, (what, least, default) in _SHORT.items():
        told = f"{what} (default: {default})"
        add(f"--{name}", type=whole_number(least), default=argparse.SUPPRESS, help=told)
    add_json(add, "also write the table to this file")
    add = parser.add_argument_group(f"of --only={QUALITY} and --only={CLOCK}").add_argument
    for name, (what, options, defaults) in _LONG.items():
        told = ", ".join(
            f"{section}: {default}" for section, default in defaults.items() if default is not None
        )
        told = f"{what} (default of {told})" if told else what
        add(f"--{name}", default=argparse.SUPPRESS, help=told, **options)
    return parser


# What each flag of the short sections means, its least value, and its default.
_SHORT = {
    "rounds": ("turns of ours and the peer", 1, 3),
    "num_frames": ("steps of the data set", 1000, 10_000),
}
# What each flag means, what it may be, and its default in the sections that have it.
_LONG = {
    "minutes": (
        "how long each model is trained in each game",
        {"type": positive_number},
        {QUALITY: 20.0},
    ),
    "variant": (
        "whose stages are trained",
        {"choices": ["paper", "compression"]},
        {CLOCK: "compression"},
    ),
    "atari_game": (
        "this game; quality without it takes Pong and Ms. Pac-Man",
        {},
        {QUALITY: None, CLOCK: "pong"},
    ),
    "num_training_frames": (
        "steps of the training set",
        {"type": whole_number(1)},
        {QUALITY: 30_000, CLOCK: 30_000},
    ),
    "data_path": (
        "directory of all data sets; clock without it records them, and throws them away",
        {"type": user_path},
        {QUALITY: Path("data"), CLOCK: None},
    ),
    "train_dir": (
        "directory of the trained stages; without it they are thrown away",
        {"type": user_path},
        {CLOCK: None},
    ),
}


def _given(args, section):
    """The section's own flags, or their defaults."""
    defaults = {name: known[section] for name, (*_, known) in _LONG.items() if section in known}
    return {name: getattr(args, name, default) for name, default in defaults.items()}


def measure_quality(args: argparse.Namespace) -> None:
    """Measures how well models predict, by the command line's flags."""
    from benchmarks.quality import GAMES, Settings, measure
    from systems.atari import game_name

    given = _given(args, QUALITY)
    game = given.pop("atari_game")
    games = GAMES if game is None else [game_name(game)]
    measure(games, lambda game: Settings(game, **given), args.json)


def measure_clock(args: argparse.Namespace) -> None:
    """Measures where the time of a curriculum goes, by the command line's flags."""
    from benchmarks.clock import measure
    from benchmarks.quality import MODEL, POLICY
    from systems.atari import game_name

    given = _given(args, CLOCK)
    game = game_name(given.pop("atari_game"))
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
        rates = ", ".join(
            f"{limits[name] / 1e9:.0f} GFLOP/s in {name}"
            for name in ("bfloat16", "float32")
            if name in limits
        )
        print(
            f"{about['made']['machine']}, {about['made']['date']}: {rates}, "
            f"{limits['bandwidth'] / 1e9:.0f} GB/s\n"
        )
        heads = f"{'work':62} {'ours':>10} {'peer':>10} {'ratio':>6} {'limit':>6}  peer is"
        print(heads, flush=True)
        rows = []
        for section in sections:
            for row in COMPARISONS[section](rounds, data, limits):
                rows.append(row)
                print(_line(row), flush=True)
                if output:  # after each row, so that an interruption loses none
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

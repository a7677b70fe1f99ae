"""Ships what pretraining has trained: writes the few weights that a network follows from.

Takes the directory of a stage with pretraining and the data sets that it was trained on. Writes

    pretrained/freeway_paper.npz    the weights in half precision, and the actions of some play
    pretrained/freeway_paper.json   the configuration, how they were made, what was measured

`utils.pretrained` makes checkpoints of them. `make pretrained` trains all and ships them.
"""

from __future__ import annotations

from collections.abc import Sequence

from systems.arguments import TRAINED, Parser
from systems.errors import exit_on_input_error, say, user_path, whole_number
from utils.checkpoint_flags import DIRECTORY
from utils.start import import_keras, prepare

NUM_FRAMES = 10_000  # of training play that is recorded again for the principal components


def parser() -> Parser:
    """The command line."""
    command = "python -m utils.training.ship"
    parser = Parser(__doc__, prog=command, examples=[f"{command} {TRAINED}/paper_seq_5"])
    add = parser.add_argument
    add("stage", type=user_path, metavar="DIR", help="of a stage with pretraining")
    add("--pretrained_dir", type=user_path, default=DIRECTORY, help="of all shipped weights")
    add(
        "--num_frames",
        type=whole_number(100),
        default=NUM_FRAMES,
        help="of training play that is recorded again for the principal components",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `python -m utils.training.ship`."""
    prepare()
    flags = parser().parse_args(arguments)
    with exit_on_input_error():
        import_keras()
        from utils.training.shipping import ship

        shipped = ship(flags.stage, flags.pretrained_dir, num_frames=flags.num_frames)
        megabytes = shipped.weights.stat().st_size / 1e6
        say(f"wrote {shipped.weights}, {megabytes:.1f} MB")


if __name__ == "__main__":
    main()

"""Ships what pretraining has trained: writes the few weights that a network follows from.

    python -m utils.training.ship checkpoints/freeway/lstm_84x84x1/paper_seq_1

takes a first stage's directory, with the data sets that it was trained on, and writes

    pretrained/freeway_paper.npz    the weights in half precision, and the actions of some play
    pretrained/freeway_paper.json   the configuration, how they were made, what was measured

`utils.pretrained` makes checkpoints of them. `make pretrained` trains all and ships them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from systems.errors import exit_on_input_error, say, user_path, whole_number
from utils.checkpoint_flags import DIRECTORY
from utils.start import import_keras, prepare

NUM_FRAMES = 3000  # of training play that is recorded again for the principal components


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `python -m utils.training.ship`."""
    prepare()
    parser = argparse.ArgumentParser(
        prog="python -m utils.training.ship",
        description="Writes the few weights that a pretrained network follows from.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("stage", type=user_path, help="directory of a first stage")
    parser.add_argument(
        "--output", type=user_path, default=DIRECTORY, help="directory of all shipped weights"
    )
    parser.add_argument(
        "--num_frames",
        type=whole_number(100),
        default=NUM_FRAMES,
        help="of training play that is recorded again for the principal components",
    )
    flags = parser.parse_args(arguments)
    with exit_on_input_error():
        import_keras()
        from utils.training.shipping import ship

        shipped = ship(flags.stage, flags.output, flags.num_frames)
        megabytes = shipped.weights.stat().st_size / 1e6
        say(f"wrote {shipped.weights}, {megabytes:.1f} MB")


if __name__ == "__main__":
    main()

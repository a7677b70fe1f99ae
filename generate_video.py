"""Renders a checkpoint's roll-out as a video: truth | prediction | difference.

The model sees 10 real frames of held-out play and predicts all that follow from the actions alone.
With --actions random there is no truth to compare with, so the prediction stands alone. Several
checkpoints of a game stand side by side.
"""

import argparse

from systems.errors import exit_on_input_error, user_path, whole_number
from utils.checkpoint_flags import add_checkpoint_arguments, checkpoint_directories
from utils.start import prepare


def main() -> None:
    """Renders by the command line's flags."""
    prepare()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_checkpoint_arguments(
        parser,
        "a stage's directory, such as checkpoints/freeway/lstm_84x84x1/compress_seq_5_reward; "
        "may be given several times",
        several=True,
    )
    add(
        "--output",
        required=True,
        type=user_path,
        metavar="MP4",
        help="the video's name, ending in .mp4 or .gif",
    )
    add(
        "--num_frames",
        type=whole_number(1),
        default=100,
        help="predicted frames (default: %(default)s)",
    )
    add(
        "--actions",
        choices=["replay", "random"],
        default="replay",
        help="those recorded, or drawn (default: %(default)s)",
    )
    add(
        "--seed",
        type=whole_number(0),
        default=0,
        help="chooses the start, and random actions (default: %(default)s)",
    )
    add(
        "--dataset",
        type=user_path,
        metavar="DIR",
        help="data set of the real frames (default: the first checkpoint's test set)",
    )
    add(
        "--fps",
        type=whole_number(1, 60),
        default=10,
        help="frames shown a second (default: %(default)s)",
    )
    args = parser.parse_args()
    with exit_on_input_error():
        # After the flags are parsed, because NumPy and TensorFlow take seconds to import.
        from utils.watching.render import render

        render(
            checkpoint_directories(args),
            args.output,
            num_frames=args.num_frames,
            replay=args.actions == "replay",
            seed=args.seed,
            dataset=args.dataset,
            fps=args.fps,
        )


if __name__ == "__main__":
    main()

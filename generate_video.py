"""Renders a checkpoint's roll-out as a video: truth | prediction | difference.

The model sees 10 real frames of held-out play and predicts all that follow from the actions alone.
With --actions random there is no truth to compare with, so the prediction stands alone. Several
checkpoints of a game stand side by side.
"""

from systems.arguments import (
    TRAINED,
    Parser,
    add_checkpoint,
    add_dataset,
    add_fps,
    add_seed,
    add_video,
)
from systems.errors import exit_on_input_error, whole_number
from utils.start import prepare


def main() -> None:
    """Renders by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        # After the flags are parsed, because NumPy and TensorFlow take seconds to import.
        from utils.watching.render import render

        render(
            args.checkpoint,
            args.video,
            horizon=args.horizon,
            replay=args.actions == "replay",
            seed=args.seed,
            dataset=args.dataset,
            fps=args.fps,
        )


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        __doc__,
        examples=[
            f"python generate_video.py --checkpoint {TRAINED}/paper_seq_5_reward \\\n"
            "      --video clip.mp4",
            f"python generate_video.py --checkpoint {TRAINED}/paper_seq_5_reward \\\n"
            f"      --checkpoint {TRAINED}/compress_seq_5_reward \\\n"
            "      --horizon 50 --video both.gif",
        ],
    )
    add = parser.add_argument_group("what is predicted").add_argument
    add_checkpoint(add, "a stage's directory; may be given several times")
    add("--horizon", type=whole_number(1), default=100, help="predicted frames")
    add(
        "--actions",
        choices=["replay", "random"],
        default="replay",
        help="those recorded, or drawn",
    )
    add_seed(add, "chooses the start, and random actions")
    add_dataset(add, "data set of the real frames (default: the first checkpoint's test set)")
    add = parser.add_argument_group("what is written").add_argument
    add_video(add, "the video's name, ending in .mp4 or .gif", required=True)
    add_fps(add, 10, "frames shown a second")
    return parser


if __name__ == "__main__":
    main()

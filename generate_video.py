"""Renders a checkpoint's roll-out as a video: truth | prediction | difference.

The model sees 10 real frames of held-out play and predicts all that follow from the actions alone.
Several checkpoints of a game stand side by side. The actions are

  replay         those that were recorded
  random         drawn at random
  UP*20,NOOP*10  those of a list: names of the game's actions, and how often each is repeated

For the last two the emulator plays on from the same moment and shows the truth, as long as the game
lasts. Data that it cannot play again have none; the prediction then stands alone. Several --actions
stand side by side, with the truth above the prediction.
"""

from systems.arguments import (
    TRAINED,
    Parser,
    add_dataset,
    add_fps,
    add_seed,
    add_video,
)
from systems.errors import exit_on_input_error, whole_number
from utils.checkpoint_flags import add_checkpoint_arguments, checkpoint_directories
from utils.start import prepare


def main() -> None:
    """Renders by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        # After the flags are parsed, because NumPy and TensorFlow take seconds to import.
        from utils.watching.render import render
        from utils.watching.video import check_output

        outputs = [check_output(path) for path in args.video]  # before weights are computed
        render(
            checkpoint_directories(args),
            outputs,
            horizon=args.horizon,
            actions=args.actions or ["replay"],
            labels=args.label or [],
            seed=args.seed,
            dataset=args.dataset,
            fps=args.fps,
        )


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        __doc__,
        examples=[
            "python generate_video.py --pretrained freeway --video freeway.mp4",
            f"python generate_video.py --checkpoint {TRAINED}/paper_seq_5_reward \\\n"
            "      --video clip.mp4",
            f"python generate_video.py --checkpoint {TRAINED}/paper_seq_5_reward \\\n"
            f"      --checkpoint {TRAINED}/compress_seq_5_reward \\\n"
            "      --horizon 50 --label paper --label compression --video both.gif",
            f"python generate_video.py --checkpoint {TRAINED}/compress_seq_5_reward \\\n"
            "      --actions UP*30 --actions NOOP*30 --actions UP*15,DOWN*15 --video three.gif",
        ],
    )
    group = parser.add_argument_group("what is predicted")
    add = group.add_argument
    add_checkpoint_arguments(group, "a stage's directory; may be given several times")
    add(
        "--horizon",
        type=whole_number(1),
        help="predicted frames (default: 100, or as many as --actions lists)",
    )
    add(
        "--actions",
        action="append",
        metavar="ACTIONS",
        help="replay, random or a list; may be given several times (default: replay)",
    )
    add_seed(add, "chooses the start, and random actions")
    add_dataset(add, "data set of the real frames (default: the first checkpoint's test set)")
    add = parser.add_argument_group("what is written").add_argument
    ends = "the video's name, ending in .mp4 or .gif; may be given twice, to write it as both"
    add_video(add, ends, several=True, required=True)
    add(
        "--label",
        action="append",
        metavar="NAME",
        help="what stands above a prediction, one for each checkpoint or each of several --actions",
    )
    add_fps(add, 10, "frames shown a second")
    return parser


if __name__ == "__main__":
    main()

"""Plays the real game by planning, and measures how much of it the compressed model has kept.

At every step the planner tries sequences of actions in a simulator and takes the first action of
the best one. The same planner runs with

  compressed  the checkpoint's own imagination, which sees each frame of the game
  emulator    the cloned emulator, which gives the score of a perfect model
  none        no simulator: random actions, held for as long

Give --simulator several times to compare. With all three, plan.py reports the share of the perfect
model's gain over random play that the compressed model keeps.
"""

import argparse

from systems.errors import exit_on_input_error, user_path, whole_number
from utils.checkpoint_flags import add_checkpoint_arguments, checkpoint_directories
from utils.start import prepare


def main() -> None:
    """Plays by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        # Imported here, because NumPy and TensorFlow take seconds: --help should answer at once.
        from utils.acting.comparison import ComparisonSettings, compare_simulators

        (args.checkpoint,) = checkpoint_directories(args)
        settings = vars(args)
        for name in ("pretrained", "variant"):
            del settings[name]
        simulators = tuple(dict.fromkeys(settings.pop("simulator") or ["compressed"]))
        compare_simulators(ComparisonSettings(simulators=simulators, **settings))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_checkpoint_arguments(parser, "a *_reward stage's directory", several=False)
    add(
        "--simulator",
        action="append",
        choices=("compressed", "emulator", "none"),
        help="where to look ahead (compressed); may be given several times",
    )
    add(
        "--method",
        choices=("shooting", "cem"),
        default="cem",
        help="random shooting or the cross-entropy method (cem)",
    )
    add("--horizon", type=whole_number(1), default=20, help="steps looked ahead (20)")
    add(
        "--num_rollouts",
        type=whole_number(2),
        default=128,
        help="sequences a decision; cem rounds down to a multiple of its three rounds (128)",
    )
    add("--episodes", type=whole_number(1), default=10, help="number of episodes (10)")
    add("--max_steps", type=whole_number(1), default=1000, help="of each episode (1000)")
    add("--seed", type=whole_number(0), default=0, help="of all random choices (0)")
    add("--output", type=user_path, metavar="JSON", help="write all figures")
    add(
        "--video",
        type=user_path,
        metavar="FILE",
        help="mp4 or gif of the first episode beside what the model imagined",
    )
    return parser


if __name__ == "__main__":
    main()

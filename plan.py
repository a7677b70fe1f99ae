"""Plays the real game by planning, and measures how much of it the compressed model has kept.

At every step the planner tries sequences of actions in a simulator and takes the first action of
the best one. The same planner runs with

  compressed  the checkpoint's own imagination, which sees each frame of the game
  emulator    the cloned emulator, which gives the score of a perfect model
  none        no simulator: random actions, held for as long

Give --simulator several times to compare. With all three, plan.py reports the share of the perfect
model's gain over random play that the compressed model keeps.
"""

from systems.arguments import TRAINED, Parser, add_json, add_seed, add_video
from systems.errors import exit_on_input_error, whole_number
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


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        __doc__,
        examples=[
            "python plan.py --pretrained freeway --variant compression",
            f"python plan.py --checkpoint {TRAINED}/compress_seq_5_reward --video plan.mp4",
            f"python plan.py --checkpoint {TRAINED}/compress_seq_5_reward \\\n"
            "      --simulator compressed --simulator emulator --simulator none \\\n"
            "      --horizon 40 --num_episodes 6 --max_episode_steps 200 --json plan.json",
        ],
    )
    group = parser.add_argument_group("who plays")
    add = group.add_argument
    add_checkpoint_arguments(group, "a *_reward stage's directory", several=False)
    add(
        "--simulator",
        action="append",
        choices=("compressed", "emulator", "none"),
        help="where to look ahead; may be given several times (default: compressed)",
    )
    add(
        "--method",
        choices=("shooting", "cem"),
        default="cem",
        help="random shooting or the cross-entropy method",
    )
    add("--horizon", type=whole_number(1), default=20, help="steps looked ahead")
    add(
        "--num_rollouts",
        type=whole_number(2),
        default=128,
        help="sequences a decision; cem rounds down to a multiple of its three rounds",
    )
    add = parser.add_argument_group("how long").add_argument
    add("--num_episodes", type=whole_number(1), default=10, help="episodes to play")
    add("--max_episode_steps", type=whole_number(1), default=1000, help="steps of each, at most")
    add_seed(add, "of all random choices")
    add = parser.add_argument_group("what is written").add_argument
    add_json(add)
    add_video(add, "mp4 or gif of the first episode beside what the model imagined")
    return parser


if __name__ == "__main__":
    main()

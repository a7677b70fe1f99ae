"""Trains an agent that only ever plays the compressed game: PPO in a frozen LSTM's imagination.

The model is the world: 1,024 games at once begin at moments of recorded play and go on for 16 steps
as the compression variant imagines them. No frame is drawn. The agent sees the LSTM's output, and
earns what the model predicts. evaluate_agent.py then plays the real game with it.

--simulator=emulator trains the same agent in the real game, from the same starts, to compare with:
so much would a perfect model bring.

Stop it in any way, and the same command goes on.
"""

from systems.arguments import TRAINED, Parser, add_dataset, add_seed
from systems.errors import (
    exit_on_input_error,
    positive_number,
    probability,
    user_path,
    whole_number,
)
from utils.acting.ppo_config import SIMULATORS, PPOConfig
from utils.checkpoint_flags import add_checkpoint_arguments, checkpoint_directories
from utils.start import import_keras, prepare


def main() -> None:
    """Trains by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        if args.pretrained and not args.variant:
            args.variant = "compression"
        (checkpoint,) = checkpoint_directories(args)
        import_keras()
        from utils.acting.agent_training import AgentFlags, train

        names = ("simulator", "num_starts", "steps", "num_envs", "horizon", "discount")
        names += ("learning_rate", "seed")
        training = PPOConfig(**{name: getattr(args, name) for name in names})
        train(AgentFlags(checkpoint, training, args.agent, args.dataset, args.overwrite))


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        __doc__,
        examples=[
            "python train_agent.py --pretrained freeway",
            f"python train_agent.py --checkpoint {TRAINED}/compress_seq_5_reward \\\n"
            "      --steps 5000000",
        ],
    )
    group = parser.add_argument_group("where it learns")
    add = group.add_argument
    add_checkpoint_arguments(
        group, "a compress_*_reward stage's directory", several=False, default_variant="compression"
    )
    add("--simulator", choices=SIMULATORS, default=PPOConfig.simulator, help="what plays the games")
    add_dataset(add, "real play that games begin from (default: the checkpoint's training set)")
    add("--num_starts", type=whole_number(1), default=PPOConfig.num_starts, help="moments of it")
    add = parser.add_argument_group("how").add_argument
    add("--steps", type=whole_number(1), default=PPOConfig.steps, help="imagined steps in all")
    add(
        "--num_envs",
        type=whole_number(1),
        default=PPOConfig.num_envs,
        help="games imagined at once",
    )
    add("--horizon", type=whole_number(1), default=PPOConfig.horizon, help="steps of each")
    add(
        "--discount",
        type=probability,
        default=PPOConfig.discount,
        help="what a reward is multiplied by for each step that it is later",
    )
    add(
        "--learning_rate", type=positive_number, default=PPOConfig.learning_rate, help="at its peak"
    )
    add_seed(add, "of all random choices")
    add = parser.add_argument_group("what is written").add_argument
    add(
        "--agent",
        type=user_path,
        metavar="DIR",
        help="where the agent is written (default: beside the checkpoint)",
    )
    add("--overwrite", action="store_true", help="train it again, or start over")
    return parser


if __name__ == "__main__":
    main()

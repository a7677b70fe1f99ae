"""Plays the real game with an agent, usually one that has only ever played the compressed game.

Whole games, each after another number of no-ops, 1 to 30, without sticky actions, by the policy's
likeliest action. The model observes each frame, so that it stays in step. `drawn` plays the same
games by actions that are drawn by the policy's probabilities. Three play them without a model:
`random` draws every action anew, `persistent` holds each for 20 steps on average, and `constant`
holds one all the time, that which earns most.
"""

from systems.arguments import AGENT, Parser, add_agent, add_json, add_video
from systems.errors import exit_on_input_error, whole_number
from utils.start import import_keras, prepare


def main() -> None:
    """Plays by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        import_keras()
        from utils.acting.agent_score import score

        score(args.agent, args.num_episodes, args.max_episode_steps, args.json, args.video)


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        __doc__,
        examples=[
            f"python evaluate_agent.py \\\n      --agent {AGENT}",
            f"python evaluate_agent.py \\\n      --agent {AGENT} \\\n"
            "      --json score.json --video agent.mp4",
        ],
    )
    add = parser.add_argument_group("what is played").add_argument
    add_agent(add)
    add("--num_episodes", type=whole_number(1), default=20, help="episodes to play")
    add(
        "--max_episode_steps",
        type=whole_number(2),
        default=27_000,
        help="steps of each, at most (half an hour of play)",
    )
    add = parser.add_argument_group("what is written").add_argument
    add_json(add)
    add_video(add, "mp4 or gif of the first episode, beside what the model expected")
    return parser


if __name__ == "__main__":
    main()

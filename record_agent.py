"""Records the real game as an agent plays it: data that show where its play leads.

The agent's model observes each frame, and the agent draws its actions by its own probabilities.
Join what is recorded to what the model has seen, train the model on that, and the agent in the new
model: docs/tools.md, "One round more".
"""

from systems.arguments import AGENT, Parser, add_agent, add_data_path, add_seed
from systems.errors import exit_on_input_error, whole_number
from utils.start import import_keras, prepare


def main() -> None:
    """Records by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        import_keras()
        from utils.acting.agent_recording import record_agent

        record_agent(args.agent, args.num_frames, args.seed, args.data_path)


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        __doc__,
        examples=[
            f"python record_agent.py \\\n      --agent {AGENT}",
            f"python record_agent.py --num_frames 30000 --seed 5 \\\n      --agent {AGENT}",
        ],
    )
    add = parser.add_argument
    add_agent(add)
    add("--num_frames", type=whole_number(1), default=10_000, help="steps of all episodes")
    add_seed(add, "of every random choice; seeds of other data sets draw other games", 4)
    add_data_path(add)
    return parser


if __name__ == "__main__":
    main()

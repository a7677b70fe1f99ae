"""Plays a trained checkpoint in the browser: the imagined game beside the real one.

Starts a server on 127.0.0.1 and prints its address. Both games get the same keys from the same
start. The page shows them, their difference, the rewards and the error as it grows. Its keys:

  arrows, space  play; space is the fire button. Digits choose where actions are numbered
  P              pause or resume
  N              one step; the game then pauses
  R              resynchronise: show the model the last ten real frames
  B              begin a new game
  A              let a planner play in the imagined game, or take the keys back
  M              switch to the other --checkpoint or --variant
  S              save the last 30 seconds as mp4 and gif, in --recordings

Without a checkpoint it plays shipped weights of Freeway. Their network is computed when they are
first used, which takes half a minute.
"""

from pathlib import Path
from socket import socket

from systems.arguments import TRAINED, Parser, add_fps
from systems.errors import exit_on_input_error, user_path, whole_number
from utils.acting.port import listen
from utils.checkpoint_flags import add_checkpoint_arguments, checkpoint_directories
from utils.start import import_keras, prepare


def main() -> None:
    """Serves by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        try:
            listener = listen(args.port)  # before shipped weights are computed
            serve(checkpoint_directories(args), listener, args.fps, args.recordings)
        except KeyboardInterrupt:
            print("\nstopped")


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        __doc__,
        examples=[
            "python play.py  # the shipped weights of Freeway",
            "python play.py --pretrained freeway --variant paper --variant compression",
            f"python play.py --checkpoint {TRAINED}/compress_seq_5_reward",
            f"python play.py --checkpoint {TRAINED}/compress_seq_5_reward \\\n"
            f"      --checkpoint {TRAINED}/paper_seq_5_reward --port 8080 --fps 30",
        ],
    )
    group = parser.add_argument_group("what is played")
    add = group.add_argument
    about = "a stage's directory; give several to switch between them"
    add_checkpoint_arguments(group, about, required=False)
    add_fps(add, 15, "steps a second")
    add = parser.add_argument_group("the page").add_argument
    add("--port", type=whole_number(0), default=8000, help="of 127.0.0.1; 0: a free one")
    add(
        "--recordings",
        type=user_path,
        default=Path("recordings"),
        metavar="DIR",
        help="where S saves videos",
    )
    return parser


def serve(directories: list[Path], listener: socket, fps: float, recordings: Path) -> None:
    """Loads the checkpoints and serves them until Ctrl-C.

    Raises:
        InputError: the checkpoints cannot be played together.
    """
    # Imported here, because NumPy and TensorFlow take seconds: --help should answer at once.
    import asyncio

    from utils.checkpoint import Checkpoint, check_alike

    checkpoints = [Checkpoint(directory) for directory in directories]
    check_alike(checkpoints)
    checkpoints[0].config.begin_real_game()  # refuses one that cannot be played

    import_keras()  # after the checks, because it takes seconds
    from utils.acting import server
    from utils.acting.twin_game import WorldModel

    models = [WorldModel(checkpoint) for checkpoint in checkpoints]
    asyncio.run(server.serve(models, listener, fps, recordings, _announce))


def _announce(address):
    print(f"{address} - open it in a browser; Ctrl-C ends it", flush=True)


if __name__ == "__main__":
    main()

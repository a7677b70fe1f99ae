"""Plays a trained checkpoint in the browser: the imagined game beside the real one.

Starts a server on 127.0.0.1 and prints its address. Both games get the same keys from the same
start. The page shows them, their difference, the rewards and the error as it grows. With a second
--checkpoint or --variant, M switches between them. A lets the model play by itself, by planning.

Without a checkpoint it plays shipped weights of Freeway. Their network is computed when they are
first used, which takes half a minute.
"""

import argparse
from pathlib import Path

from systems.errors import InputError, exit_on_input_error, positive_number, user_path, whole_number
from utils.checkpoint_flags import add_checkpoint_arguments, checkpoint_directories
from utils.start import import_keras, prepare

MAX_FPS = 60  # of the Atari 2600


def main() -> None:
    """Serves by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        try:
            serve(checkpoint_directories(args), args.port, args.fps, args.recordings)
        except KeyboardInterrupt:
            print("\nstopped")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_checkpoint_arguments(
        parser,
        "a stage's directory; may be given twice, to switch between two",
        several=True,
        required=False,
    )
    add("--port", type=whole_number(0), default=8000, help="of 127.0.0.1; 0: a free one (8000)")
    add("--fps", type=steps_a_second, default=15, help=f"steps a second, at most {MAX_FPS} (15)")
    add(
        "--recordings",
        type=user_path,
        default=Path("recordings"),
        metavar="DIR",
        help="where S saves videos (recordings)",
    )
    return parser


def steps_a_second(text: str) -> float:
    """The argparse type of --fps: a number above 0 and at most 60."""
    value = positive_number(text)
    if value > MAX_FPS:
        raise argparse.ArgumentTypeError(
            f"expected a number of at most {MAX_FPS}, received {text!r}"
        )
    return value


def serve(directories: list[Path], port: int, fps: float, recordings: Path) -> None:
    """Loads the checkpoints and serves them until Ctrl-C.

    Raises:
        InputError: the port is taken, or the checkpoints cannot be played together.
    """
    # Imported here, because NumPy and TensorFlow take seconds: --help should answer at once.
    import asyncio

    from systems.atari import AtariGame
    from utils.checkpoint import Checkpoint, check_alike

    checkpoints = [Checkpoint(directory) for directory in directories]
    check_alike(checkpoints)
    config = checkpoints[0].config
    config.check_game(AtariGame(config.game))

    import_keras()  # after the checks, because it takes seconds
    from utils.acting import server
    from utils.acting.twin_game import WorldModel

    try:
        listener = server.listen(port)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"expected a free port, but listening on {port} failed: {error}. "
            "Give another one by --port."
        ) from error
    models = [WorldModel(checkpoint) for checkpoint in checkpoints]
    asyncio.run(server.serve(models, listener, fps, recordings, _announce))


def _announce(address):
    print(f"{address} - open it in a browser; Ctrl-C ends it", flush=True)


if __name__ == "__main__":
    main()

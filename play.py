"""Plays a trained checkpoint in the browser: the imagined game beside the real one.

Starts a server on 127.0.0.1 and prints its address. Both games get the same keys from the same
start; the page shows them, their difference, rewards and the error as it grows. With a second
--checkpoint of the other variant, M switches between them.
"""

import argparse
from pathlib import Path

from systems.atari import AtariGame
from systems.errors import InputError, exit_on_input_error, positive_number, whole_number
from systems.twin_game import Imaginer
from utils.checkpoints import check_alike
from utils.server import listen, serve


def main() -> None:
    """Serves by the command line's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        action="append",
        type=Path,
        metavar="DIR",
        help="a stage's directory; may be given twice, to switch between",
    )
    add("--port", type=whole_number(0), default=8000, help="of 127.0.0.1; 0: a free one (8000)")
    add("--fps", type=positive_number, default=15, help="steps a second (15)")
    add("--recordings", type=Path, default=Path("recordings"), help="where S saves (recordings)")
    args = parser.parse_args()
    with exit_on_input_error():
        try:
            listener = listen(args.port)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"expected a free port, but listening on {args.port} failed: {error}. "
                "Give another by --port."
            ) from error
        imaginers = [Imaginer(directory) for directory in args.checkpoint]
        check_alike([imaginer.config for imaginer in imaginers])
        config = imaginers[0].config
        AtariGame(config["game"]).check_actions(config["action_meanings"])
        try:
            serve(imaginers, listener, args.fps, args.recordings, _announce)
        except KeyboardInterrupt:
            print("\nstopped")


def _announce(address):
    print(f"{address} - open it in a browser; Ctrl-C ends it", flush=True)


if __name__ == "__main__":
    main()

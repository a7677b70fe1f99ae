"""Measures checkpoints on held-out play, beside baselines, for up to 100 steps.

Each window shows 10 real frames and then the recorded actions alone. Errors are mean squared errors
in grey levels (RGB levels) squared, 0 to 255, by the number of steps predicted (the horizon):

  mse             over all pixels
  mse_moving      over the moving pixels, which change within the window's truth; the mean over all
                  pixels hardly notices when a small object is left out
  mse_controlled  over the controlled pixels, which differ from the recorded future when the
                  emulator plays on from the same moment under other actions; null for data that
                  cannot be replayed
  psnr            of mse, in decibels

Each error stands beside three baselines: ..._repeat_last repeats the last real frame,
..._mean_frame shows the mean of the training frames, ..._shuffled_actions is the model with another
window's actions (a model that ignores its actions errs alike). All have 95 % bootstrap intervals.
Windows that begin within one window's length of play are drawn together, because they share frames;
there is no interval where all of them do.

Of the reward it reports, by sign: the average precision (over all steps, and within each horizon),
the calibration, and the absolute error of the reward summed up to each horizon, beside that of
predicting none. Of the end of the episode it reports the average precision.
"""

import argparse

from systems.errors import check_writable, exit_on_input_error, user_path, whole_number
from utils.checkpoint_flags import add_checkpoint_arguments, checkpoint_directories
from utils.start import prepare


def main() -> None:
    """Evaluates by the command line's flags."""
    prepare()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_checkpoint_arguments(
        parser, "a stage's directory; may be given several times", several=True
    )
    add(
        "--dataset",
        type=user_path,
        metavar="DIR",
        help="what to measure on (default: the checkpoint's test set)",
    )
    add(
        "--horizons",
        type=_horizons,
        default="1,3,5,10,30,50,100",
        help="steps to report (default: %(default)s)",
    )
    add(
        "--num_windows",
        type=whole_number(1),
        default=256,
        help="windows to measure, as far as the data goes (default: %(default)s)",
    )
    add(
        "--seed",
        type=whole_number(0),
        default=0,
        help="chooses the windows (default: %(default)s)",
    )
    add("--output", type=user_path, metavar="JSON", help="write all figures; a list if several")
    add("--plot", type=user_path, metavar="PNG", help="draw the errors over the horizon")
    args = parser.parse_args()
    with exit_on_input_error():
        for path in (args.output, args.plot):
            if path:
                check_writable(path)
        # After the flags are parsed, because NumPy and TensorFlow take seconds to import.
        from utils.watching.measure import HeldOutPlay, compare_checkpoints

        play = HeldOutPlay(args.dataset, args.horizons, args.num_windows, args.seed)
        directories = checkpoint_directories(args)
        compare_checkpoints(directories, play, args.output, args.plot)


def _horizons(text):
    """The argparse type of a list of horizons."""
    try:
        horizons = sorted({int(part) for part in text.split(",")})
    except ValueError:
        horizons = [0]
    if horizons[0] < 1:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers of at least 1, separated by commas, received {text!r}"
        )
    return horizons


if __name__ == "__main__":
    main()

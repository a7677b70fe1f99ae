"""Measures checkpoints on held-out play, beside baselines, for up to 100 steps, or more on request.

Each window shows 10 real frames and then the recorded actions alone. Errors are mean squared errors
in grey levels (RGB levels) squared, 0 to 255, by the number of steps predicted (the horizon):

  mse             over all pixels
  mse_moving      over the moving pixels, which change within the window's truth; the mean over all
                  pixels hardly notices when a small object is left out
  mse_controlled  over the controlled pixels, which differ from the recorded future when the
                  emulator plays on from the same moment under other actions; null for data that
                  cannot be replayed
  psnr            of mse, in decibels
  ssim            structural similarity of the frames (Wang et al. 2004), 1: alike

Each error stands beside four baselines: ..._repeat_last repeats the last real frame,
..._mean_frame shows the mean of the training frames, ..._recall plays back what was recorded after
the training moment that looks most alike, ..._shuffled_actions is the model with another window's
actions (a model that ignores its actions errs alike).

  ratio, ratio_moving, ratio_controlled  the three errors over those of repeating the last frame
  ratio_mean_frame                       mse over that of the mean training frame
  ratio_recall, ..._recall               the three errors over those of recall; above 1, the model
                                         has learned less than the training set holds
  ratio_shuffled                         mse_controlled over that under shuffled actions

Of the object that the player controls it reports in how many windows the prediction shows it
(object_present), and how many pixels from its place (object_offset). Of the reward it reports, by
sign, the average precision, the calibration, and the absolute error of the reward summed up to each
horizon. Of the end of the episode it reports the average precision. How much of the test set stands
in the training set bit for bit is told, too.

Means have 95 % intervals. For these, whole stretches of play are left out in turn, because
neighbouring windows err alike. The file of --json holds all of this; docs/tools.md explains its
keys. The tables that are printed are explained below them.

Predictions of any other model are scored alike: --export_windows writes what it has to predict, and
--predictions reads what it predicted. docs/data.md has an example.
"""

import argparse

from systems.arguments import (
    TRAINED,
    Parser,
    add_dataset,
    add_json,
    add_seed,
)
from systems.errors import (
    InputError,
    check_writable,
    exit_on_input_error,
    user_path,
    whole_number,
)
from utils.checkpoint_flags import add_checkpoint_arguments, checkpoint_directories
from utils.start import prepare


def main() -> None:
    """Evaluates by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        _check_files(args)
        # After the flags are parsed, because NumPy and TensorFlow take seconds to import.
        from utils.watching.measure import HeldOutPlay, compare_checkpoints, export_windows

        play = HeldOutPlay(args.dataset, args.horizon, args.num_windows, args.seed)
        checkpoints = checkpoint_directories(args)
        if args.export_windows:
            export_windows(checkpoints, play, args.export_windows)
        else:
            compare_checkpoints(checkpoints, play, args.json, args.plot, args.predictions)


def _check_files(args):
    """Raises InputError for names of files that cannot be used, before anything is computed."""
    if args.export_windows:
        for flag in ("json", "plot", "predictions"):
            if getattr(args, flag):
                raise InputError(
                    f"expected no --{flag} beside --export_windows, which measures nothing, "
                    f"received {getattr(args, flag)}. Leave one of the two out."
                )
    for path in (args.json, args.plot, args.export_windows):
        if path:
            check_writable(path)
    from utils.watching.plot import check_plot
    from utils.watching.predictions import check_npz

    if args.plot:
        check_plot(args.plot)
    if args.export_windows:
        check_npz("--export_windows", args.export_windows)


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        __doc__,
        examples=[
            "python evaluate.py --pretrained freeway",
            f"python evaluate.py --checkpoint {TRAINED}/paper_seq_5_reward",
            f"python evaluate.py --checkpoint {TRAINED}/paper_seq_5_reward \\\n"
            f"      --checkpoint {TRAINED}/compress_seq_5_reward \\\n"
            "      --json errors.json --plot errors.png",
            f"python evaluate.py --checkpoint {TRAINED}/paper_seq_1 --horizon 1,10,100,1000",
            "python evaluate.py --pretrained freeway --export_windows windows.npz",
            "python evaluate.py --pretrained freeway --predictions predictions.npz",
        ],
    )
    group = parser.add_argument_group("what is measured")
    add = group.add_argument
    add_checkpoint_arguments(group, "a stage's directory; may be given several times")
    add_dataset(add, "what to measure on (default: the checkpoint's test set)")
    add(
        "--horizon",
        type=_horizons,
        help="steps to report, up to what the longest episode has (default: 1,3,5,10,30,50,100)",
    )
    add(
        "--num_windows",
        type=whole_number(1),
        default=256,
        help="windows to measure, as far as the data goes",
    )
    add_seed(add, "chooses the windows")
    add(
        "--predictions",
        type=user_path,
        metavar="FILE",
        help="score these frames (.npz) in place of the checkpoint's",
    )
    add = parser.add_argument_group("what is written").add_argument
    add_json(add, "write all figures to this file; a list if there are several checkpoints")
    add(
        "--export_windows",
        type=user_path,
        metavar="FILE",
        help="write the windows to this file (.npz), for any model to predict, and end",
    )
    add("--plot", type=user_path, metavar="FILE", help="draw the errors over the horizon")
    return parser


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

"""Measures checkpoints on held-out play, beside baselines, for up to 100 steps.

Each window shows 10 real frames and then the recorded actions alone. Errors are mean squared errors
in grey levels (RGB levels) squared, 0 to 255, by the number of steps looked ahead:

  mse             over all pixels
  mse_moving      over the pixels that change within the window's truth; the mean over all pixels
                  hardly notices when a small object is left out
  mse_controlled  over the pixels that the player's choice decides: those that differ from the
                  recorded future when the emulator plays on from the same moment under others'
                  actions; null for data that cannot be played again
  psnr            of mse, in decibels

Each stands beside ..._repeat_last (the last real frame for ever), ..._mean_frame (the training
frames' mean) and ..._shuffled_actions (the model given another window's actions: one that ignores
them errs alike), with 95 % bootstrap intervals: windows that begin within the same stretch of
play, one window's length, are drawn together, as they share frames; none where all of them do. Of
the reward it reports the average precision of its sign (over all steps, and within the first h),
calibration, and the absolute error of the reward summed up to each horizon beside that of
predicting none; of the end of the episode the average precision.
"""

import argparse
from pathlib import Path

import keras

from model.networks import PRESETS
from model.predictor import RollOut
from systems.errors import InputError, check_writable, exit_on_input_error, whole_number
from utils import checkpoints, evaluation
from utils.controlled import controlled_pixels
from utils.dataset import find_dataset, held_out_windows

PLOTS = (".png", ".pdf", ".svg")
HORIZONS = "1,3,5,10,30,50,100"


def main() -> None:
    """Evaluates by the command line's flags."""
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
        help="a stage's directory; may be given several times",
    )
    add("--dataset", metavar="DIR", help="what to measure on; default: the checkpoint's test set")
    add("--horizons", type=_horizons, default=HORIZONS, help=f"steps to report ({HORIZONS})")
    add("--num_windows", type=whole_number(1), default=256, help="as far as the data goes (256)")
    add("--seed", type=whole_number(0), default=0, help="chooses the windows")
    add("--output", type=Path, metavar="JSON", help="write all figures; a list if several")
    add("--plot", type=Path, metavar="PNG", help="draw the errors over the horizon")
    args = parser.parse_args()
    with exit_on_input_error():
        for path in (args.output, args.plot):
            if path:
                check_writable(path)
        if args.plot and args.plot.suffix not in PLOTS:
            raise InputError(f"expected --plot to end in one of {PLOTS}, received {args.plot}")
        # A wrong name is told before anything is measured.
        configs = [checkpoints.read_config(directory) for directory in args.checkpoint]
        if args.plot:
            _check_one_plot(configs, args.dataset)
        results, decided = [], {}
        for directory in args.checkpoint:
            results.append(evaluate(directory, args, decided))
            if args.output:
                content = results[0] if len(args.checkpoint) == 1 else results
                checkpoints.write_json(args.output, content)
        if args.plot:
            plot(results, args.plot)


def _check_one_plot(configs, dataset):
    """Baselines are drawn once, so that all checkpoints must be measured on the same frames."""
    measured = {
        (
            config["game"],
            dataset or config["data"]["test"],
            PRESETS[config["model"]].frame_shape,
            config["warmup"],
        )
        for config in configs
        if config["model"] in PRESETS  # if not, it is said when it is loaded
    }
    if len(measured) > 1:
        raise InputError(
            "expected checkpoints of one game, frame shape and test set for one --plot, received "
            + "; ".join(sorted(f"{game}, {shape}, {path}" for game, path, shape, _ in measured))
            + ". Name one set for all by --dataset, or draw them one by one."
        )


def _labels(results):
    """The shortest ends of the checkpoints' paths that tell them apart."""
    paths = [Path(result["checkpoint"]).resolve().parts for result in results]
    for count in range(1, max(map(len, paths)) + 1):
        labels = ["/".join(parts[-count:]) for parts in paths]
        if len(set(labels)) == len(labels):
            break
    return labels


def _horizons(text):
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers of at least 1, separated by commas, received {text!r}"
        )
    return found


def evaluate(directory: Path, args: argparse.Namespace, decided: dict) -> dict:
    """Measures one checkpoint and prints a table.

    Args:
        directory: of the checkpoint.
        args: the command line's flags.
        decided: what the player decides in the windows of the checkpoints before; added to.
    """
    config = checkpoints.read_config(directory)
    predictor = checkpoints.load_predictor(directory)
    shape, warmup = predictor.preset.frame_shape, config["warmup"]
    dataset = find_dataset(
        args.dataset or config["data"]["test"], config["game"], len(config["action_meanings"])
    )
    longest = int(dataset.lengths.max()) + 1 - warmup
    horizons = [h for h in args.horizons if h <= longest]
    if not horizons:
        raise InputError(
            f"expected --horizons of at most {longest}, the frames after the warm-up in the "
            f"longest episode of {dataset.directory}. Received {args.horizons}."
        )
    length = warmup + horizons[-1]
    windows = held_out_windows(dataset, shape, length, args.num_windows, args.seed)
    starts = [windows.window(number) for number in windows.numbers(0)]
    asked = (dataset.directory, warmup, tuple(horizons), shape)
    if asked not in decided:
        decided[asked] = controlled_pixels(dataset, starts, warmup, horizons, shape)
    results, _ = evaluation.evaluate(
        RollOut(predictor),
        windows[0],
        warmup,
        horizons,
        dataset.palette(),
        controlled=decided[asked],
        starts=starts,
        thorough=True,
    )
    keras.backend.clear_session()  # the next checkpoint's graphs take this one's place
    results = {
        "checkpoint": str(directory),
        "game": config["game"],
        "dataset": str(dataset.directory),
        **results,
    }
    print(f"{directory} on {dataset.directory}, {results['num_windows']} windows:")
    print(evaluation.thorough_table(results))
    print(evaluation.reward_lines(results))
    return results


def plot(results: list[dict], path: Path) -> None:
    """Draws each error over the horizon, of all checkpoints and the baselines."""
    # Here, as it takes half a second to import.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = _labels(results)
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    titles = {
        "mse": "all pixels",
        "mse_moving": "pixels that move",
        "mse_controlled": "pixels that the player's choice decides",
    }
    lines = {"": "-", "_shuffled_actions": ":"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for i, (result, name) in enumerate(zip(results, labels, strict=True)):
            for suffix, style in lines.items():
                label = f"{name}, others' actions" if suffix else name
                _line(axis, result, key + suffix, label, f"C{i}", style)
        _line(axis, results[0], f"{key}_repeat_last", "last frame repeated", "0.4", "--")
        _line(axis, results[0], f"{key}_mean_frame", "mean frame", "0.7", "--")
        axis.set(title=title, xlabel="steps looked ahead", xscale="log", yscale="log")
        axis.set_xticks(ticks := [int(h) for h in results[0]["horizons"]], map(str, ticks))
        axis.tick_params(axis="x", which="minor", bottom=False)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean squared error, levels squared")
    axes[0].legend(fontsize="small")
    figure.suptitle(f"{results[0]['game']}, held-out play, {results[0]['num_windows']} windows")
    checkpoints.write_whole(path, lambda partial: figure.savefig(partial, dpi=120))
    pyplot.close(figure)


def _line(axis, result, key, label, color, style):
    points = [
        (int(h), row[key], row["intervals"].get(key, [row[key]] * 2))
        for h, row in result["horizons"].items()
        if row[key] is not None
    ]
    if points:
        steps, values, intervals = zip(*points, strict=True)
        axis.plot(steps, values, style, color=color, label=label, marker=".")
        axis.fill_between(steps, *zip(*intervals, strict=True), color=color, alpha=0.15, lw=0)


if __name__ == "__main__":
    main()

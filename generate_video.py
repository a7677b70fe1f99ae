"""Renders a checkpoint's roll-out as a video: truth | prediction | difference.

Warms up on 10 real frames of held-out play and looks ahead from there, seeing actions alone. With
--actions random there is no truth to compare with: it shows the prediction by itself. Several
checkpoints of a game stand side by side.
"""

import argparse
from pathlib import Path

import numpy as np

from model.networks import PRESETS
from model.predictor import REWARD_CLASSES, RollOut
from systems.errors import InputError, exit_on_input_error, whole_number
from utils import evaluation, video
from utils.checkpoints import check_alike, load_predictor, read_config
from utils.dataset import find_dataset, held_out


def main() -> None:
    """Renders by the command line's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        action="append",
        type=Path,
        help="a stage's directory, such as checkpoints/freeway/lstm_84x84x1/compress_seq_5_reward; "
        "may be given several times",
    )
    parser.add_argument("--output", required=True, help="the video's name, ending in .mp4 or .gif")
    parser.add_argument(
        "--num_frames", type=whole_number(1), default=100, help="predicted frames (100)"
    )
    parser.add_argument(
        "--actions", choices=["replay", "random"], default="replay", help="those recorded, or drawn"
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="chooses the start, and random actions"
    )
    parser.add_argument("--dataset", help="directory of the real frames; default: the test set")
    parser.add_argument(
        "--fps", type=whole_number(1), default=10, help="frames shown a second (10)"
    )
    args = parser.parse_args()
    with exit_on_input_error():
        render(args)


def render(args: argparse.Namespace) -> None:
    """Rolls out and writes the video."""
    output = video.check_output(args.output)
    configs = [read_config(directory) for directory in args.checkpoint]
    check_alike(configs)
    config = configs[0]
    meanings, warmup = config["action_meanings"], config["warmup"]
    dataset = find_dataset(args.dataset or config["data"]["test"], config["game"], len(meanings))
    replay = args.actions == "replay"
    # One frame more than is shown, if nothing is replayed: nothing comes after an episode's last.
    length = warmup + (args.num_frames if replay else 1)
    longest = int(dataset.lengths.max()) + 1
    if length > longest:
        raise InputError(
            f"expected --num_frames of at most {longest - warmup}, the frames after the warm-up in "
            f"the longest episode of {dataset.directory}. Received {args.num_frames}."
        )
    # Alike for all checkpoints, and so read once.
    window = held_out(dataset, PRESETS[config["model"]].frame_shape, length, 1, args.seed)
    actions = window["actions"]
    panels, rewards = {}, []
    if replay:
        truth = evaluation.pixels(window["frames"][:, warmup:], dataset.palette())
        panels["truth"] = video.to_uint8_rgb(truth[0])
    else:
        rng = np.random.default_rng(args.seed)
        drawn = rng.integers(len(meanings), size=(1, args.num_frames), dtype=actions.dtype)
        actions = np.concatenate([actions[:, : warmup - 1], drawn], axis=1)
    alone = len(configs) == 1
    for directory, described in zip(args.checkpoint, configs, strict=True):
        predictor = load_predictor(directory)
        predictions = RollOut(predictor).predict_on_batch(
            {"frames": window["frames"][:, :warmup], "actions": actions}
        )
        prediction = video.to_uint8_rgb(predictions["frames"][0])
        panels["prediction" if alone else _title(described, panels)] = prediction
        if replay and alone:
            panels["difference"] = video.difference(panels["truth"], prediction)
        told = predictions["reward"][0] @ np.array(REWARD_CLASSES, np.float32)
        rewards.append(told if described["training"]["reward_weight"] else None)
    captions = []
    for t in range(args.num_frames):
        caption = f"step {t + 1}  {meanings[actions[0, warmup - 1 + t]]}\nreward"
        if replay:
            caption += f" {window['rewards'][0, warmup - 1 + t]:+.0f},"
        told = ", ".join("-" if row is None else f"{row[t]:+.2f}" for row in rewards)
        captions.append(f"{caption} predicted {told}")
    scale = 3 if prediction.shape[1] < 100 else 2
    video.write_video(output, video.side_by_side(panels, captions, scale), args.fps)
    print(f"{output}: {args.num_frames} frames, {config['game']}, {config['stage']}")


def _title(config, panels):
    """The variant; if that is there already, the stage, numbered where need be."""
    names = [config["variant"], config["stage"]]
    names += [f"{config['stage']} {i}" for i in range(2, len(panels) + 2)]
    return next(name for name in names if name not in panels)


if __name__ == "__main__":
    main()

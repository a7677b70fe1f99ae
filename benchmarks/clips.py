"""Makes a clip of several checkpoints side by side: the real game above, what is imagined below.

It starts with the ten real frames that the model sees. They have a green frame in both rows. What
is imagined has an orange one. Each start is drawn by the seed from those in which a reward is
earned, so that checkpoints of one game and test set start alike. A column each: first those of
--checkpoint, then each game of --pretrained, in each --variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages import TITLES
from systems.arguments import TRAINED, Parser, add_checkpoint, add_fps, add_seed, add_video
from systems.errors import InputError, exit_on_input_error, say, whole_number
from utils.checkpoint_flags import DEFAULT_VARIANT, VARIANTS, shipped_names
from utils.start import import_keras, prepare

SCALE = 2  # screen pixels for each pixel of a frame, at the small preset's size
BORDER = 4  # screen pixels
REAL, IMAGINED = (47, 160, 95), (230, 110, 30)  # RGB of the frames around real and imagined ones
# Grey levels are rounded to multiples of it: nobody sees it, and the clip takes half the room.
GREY_STEP = 8
CANDIDATES = 2000  # windows among which a start with a reward is looked for
EARLIEST_REWARD = 5  # steps, so that there is something to see before it


def main() -> None:
    """Renders by the command line's flags."""
    prepare()
    args = parser().parse_args()
    with exit_on_input_error():
        directories = chosen(args.checkpoint or [], args.pretrained or [], args.variant)
        make_clip(directories, args.video, args.horizon, args.seed, args.fps)


def parser() -> Parser:
    """The command line."""
    command = "python -m benchmarks.clips"
    parser = Parser(
        __doc__,
        prog=command,
        examples=[
            f"{command} --pretrained freeway --pretrained pong --video clip.gif",
            f"{command} --checkpoint {TRAINED}/paper_seq_5_reward \\\n      --video clip.gif",
        ],
    )
    add = parser.add_argument
    add_checkpoint(add, "a stage's directory; may be given several times", required=False)
    add(
        "--pretrained",
        action="append",
        metavar="GAME",
        help=f"shipped weights: {', '.join(shipped_names())}; may be given several times",
    )
    add(
        "--variant",
        choices=VARIANTS,
        action="append",
        help=f"of the shipped weights ({DEFAULT_VARIANT}); may be given twice",
    )
    add_video(add, "where to write, ending in .gif or .mp4", required=True)
    add("--horizon", type=whole_number(1), default=30, help="imagined frames")
    add_seed(add, "chooses the starts")
    add_fps(add, 6, "frames shown a second")
    return parser


def chosen(
    checkpoints: Sequence[Path], games: Sequence[str], variants: Sequence[str] | None
) -> list[Path]:
    """The checkpoints of the columns, in order.

    Args:
        checkpoints: directories of stages.
        games: of shipped weights.
        variants: of these; None: `DEFAULT_VARIANT`.

    Raises:
        InputError: there is no column, or there are no such weights.
    """
    from utils.pretrained import pretrained_checkpoint  # it imports NumPy

    if not checkpoints and not games:
        raise InputError("expected a --checkpoint or a --pretrained for each column, received none")
    pairs = [(game, variant) for game in games for variant in variants or [DEFAULT_VARIANT]]
    return [*checkpoints, *(pretrained_checkpoint(game, variant) for game, variant in pairs)]


@dataclass(frozen=True)
class Column:
    """One checkpoint's roll-out.

    Attributes:
        title: what stands above it.
        real: uint8 RGB (warmup + horizon, height, width, 3), the real game.
        imagined: uint8 RGB (horizon, height, width, 3).
        actions: names of the actions that lead to the imagined frames, (horizon,).
        rewards: signs of those earned, float (horizon,).
        expected: signs predicted, float (horizon,); None if they are not learned.
    """

    title: str
    real: object
    imagined: object
    actions: Sequence[str]
    rewards: Sequence[float]
    expected: Sequence[float] | None


def make_clip(
    directories: Sequence[Path], path: Path, horizon: int = 30, seed: int = 0, fps: int = 6
) -> None:
    """Rolls checkpoints out and writes the clip.

    Args:
        directories: of the stages.
        path: of the clip.
        horizon: imagined frames.
        seed: chooses the starts.
        fps: frames a second.

    Raises:
        InputError: what was given cannot be used.
    """
    from utils.checkpoint import Checkpoint
    from utils.watching import video

    path = video.check_output(path)
    checkpoints = [Checkpoint(directory) for directory in directories]
    warmups = {checkpoint.config.warmup for checkpoint in checkpoints}
    if len(warmups) > 1:
        raise InputError(f"expected checkpoints that see as many real frames, received {warmups}")
    columns = [roll_out(checkpoint, horizon, seed) for checkpoint in checkpoints]
    video.write_video(path, frames_of(columns), fps)
    say(f"{path}: {horizon} imagined frames, {path.stat().st_size / 1e6:.2f} MB")


def roll_out(checkpoint, horizon: int, seed: int) -> Column:
    """Rolls one checkpoint out from a start of its test set.

    Args:
        checkpoint: the `utils.checkpoint.Checkpoint`.
        horizon: imagined frames.
        seed: chooses the start.

    Raises:
        InputError: no episode of the test set is that long.
    """
    import_keras()
    import numpy as np

    from model.predictor import REWARD_CLASSES, RollOut
    from model.presets import PRESETS
    from systems.windows import WindowSpec, sample
    from utils.watching import evaluation, video

    config, data = checkpoint.config, checkpoint.test_data()
    spec, shape = WindowSpec(config.warmup, horizon), PRESETS[config.model].frame_shape
    windows = sample(data, shape, spec, CANDIDATES, seed)
    number = start_with_reward(windows)
    window = windows.read([number])
    first = config.warmup - 1
    given = {"frames": window["frames"][:, : config.warmup], "actions": window["actions"]}
    predicted = RollOut(checkpoint.predictor()).predict_on_batch(given)
    expected = predicted["reward"][0] @ np.array(REWARD_CLASSES, np.float32)
    game = TITLES.get(config.game, config.game)
    return Column(
        title=f"{game}, {config.variant}",
        real=video.to_uint8_rgb(evaluation.pixels(window["frames"], data.palette())[0]),
        imagined=video.to_uint8_rgb(predicted["frames"][0]),
        actions=[config.action_meanings[action] for action in window["actions"][0, first:]],
        rewards=np.sign(window["rewards"][0, first:]),
        expected=expected if checkpoint.predicts_rewards else None,
    )


def start_with_reward(windows) -> int:
    """The first window of a sample in which a reward is earned, or the first one of all.

    Args:
        windows: a `systems.windows.sample`.
    """
    begin, end = windows.spec.warmup - 1, windows.spec.length - 1
    numbers = windows.numbers(0)
    for number in numbers:
        episode, frame = windows.position(number)
        rewards = windows.dataset.rewards[episode][frame + begin : frame + end]
        if rewards[EARLIEST_REWARD:].any():
            return number
    say(f"note: no reward is earned in {windows.dataset.directory} at a time that can be shown")
    return numbers[0]


def frames_of(columns: Sequence[Column]) -> Iterator:
    """The clip's frames, uint8 RGB (height, width, 3)."""
    import numpy as np

    from utils.watching import video

    horizon = len(columns[0].imagined)
    warmup = len(columns[0].real) - horizon
    for t in range(warmup + horizon):
        drawn = []
        for column in columns:
            panel, caption = (
                {column.title: [_panel(column, t, warmup)]},
                _caption(column, t, warmup),
            )
            # Each by itself, so that its caption stands below it.
            drawn += [*video.side_by_side(panel, [caption], scale=1)]
        gap = np.zeros((len(drawn[0]), video.GAP, 3), np.uint8)
        joined = [part for frame in drawn for part in (frame, gap)][:-1]
        yield np.concatenate(joined, axis=1)


def _caption(column, t, warmup):
    """What is shown, the action, and the reward earned and predicted."""
    if t < warmup:
        return f"real frame {t + 1} of {warmup}\n "
    step = t - warmup
    expected = "-" if column.expected is None else f"{column.expected[step]:+.1f}"
    return (
        f"imagined {step + 1}: {column.actions[step]}\n"
        f"reward {column.rewards[step]:+.0f}, predicted {expected}"
    )


def _panel(column, t, warmup):
    """Real above imagined, each within its frame."""
    import numpy as np

    real = column.real[t]
    below = real if t < warmup else column.imagined[t - warmup]
    scale = max(1, SCALE * 84 // real.shape[0])
    color = REAL if t < warmup else IMAGINED
    return np.concatenate([_framed(real, REAL, scale), _framed(below, color, scale)])


def _framed(frame, color, scale):
    import numpy as np

    rounded = np.minimum(np.rint(frame / GREY_STEP) * GREY_STEP, 255).astype(np.uint8)
    large = rounded.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width, _ = large.shape
    framed = np.empty((height + 2 * BORDER, width + 2 * BORDER, 3), np.uint8)
    framed[:] = color
    framed[BORDER:-BORDER, BORDER:-BORDER] = large
    return framed


if __name__ == "__main__":
    main()

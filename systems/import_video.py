"""Makes a data set of videos of play and the actions taken in them.

The CSV file has a line for each frame of the video, under a header:

    action        what was done at this frame, a number or a name; empty at an episode's last frame
    reward        of that action, if there are rewards
    termination   1 where the action ended the game, if that is known

So an episode of T steps has T + 1 frames, and its last line has no action. The video's last line
may be missing. Names are numbered in the order of the alphabet. Several videos, each followed by
its own CSV file, make one data set. `systems.record` describes its layout.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from zlib_ng import zlib_ng

from systems.arguments import Parser, add_data_path
from systems.dataset import Dataset
from systems.episodes import ZLIB_LEVEL, Episode
from systems.errors import InputError, exit_on_input_error, one_line, say, user_path, whole_number
from systems.write_dataset import EpisodesWriter, new_data_set

MAX_HEIGHT = 240  # pixels of a stored frame; the networks see 84 or 210


class Step(NamedTuple):
    """A line of the CSV file: what was done at one frame."""

    action: str  # empty at an episode's last frame
    reward: float
    termination: bool


def import_videos(
    pairs: Sequence[tuple[Path, Path]],
    game: str,
    data_path: Path,
    name: str = "video",
    max_height: int = MAX_HEIGHT,
    overwrite: bool = False,
) -> Path:
    """Writes a data set of videos unless it is there already, and returns its directory.

    Args:
        pairs: each video and its CSV file.
        game: what the game is called, of letters, digits, `_` and `-`.
        data_path: where all data sets lie.
        name: what this play is called.
        max_height: of a stored frame; larger ones are shrunk by area.
        overwrite: whether to replace a data set that is there already.

    Raises:
        InputError: a video or CSV file cannot be read, or they do not belong together.
    """
    for what in (game, name):
        if not re.fullmatch(r"[\w-]+", what):
            raise InputError(
                f"expected a name of letters, digits, _ and -, received {what!r}; choose another"
            )
    steps = [read_steps(csv_file) for _, csv_file in pairs]
    meanings, numbers = _numbered(step.action for one in steps for step in one)
    directory = _directory(data_path, game, name)
    with new_data_set(directory, overwrite) as new:
        if new is None:
            return directory
        # The size is the first video's; the others have to have it too.
        first = next(_frames(pairs[0][0], max_height))
        with EpisodesWriter(new, first.shape) as writer:
            for (video, csv_file), about in zip(pairs, steps, strict=True):
                frames = _frames(video, max_height)
                for episode in _episodes(frames, about, numbers, first.shape, video, csv_file):
                    writer.write(episode)
            if not writer.returns:
                raise InputError(
                    f"expected an action in one of the CSV files, received none in "
                    f"{', '.join(str(csv_file) for _, csv_file in pairs)}"
                )
            writer.finish(
                f"{game}/{name}-v1",
                len(meanings),
                packages=("av", "numpy", "h5py"),
                game=game,
                action_meanings=meanings,
                videos=[video.name for video, _ in pairs],
            )
    return directory


def _directory(data_path: Path, game: str, name: str) -> Path:
    return Path(data_path, game, f"{name}-v1", "data")


def read_steps(path: Path) -> list[Step]:
    """Returns the lines of a CSV file.

    Raises:
        InputError: it cannot be read, has no column `action`, or a value is no number.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            columns = next(reader, [])
            if "action" not in columns:
                raise InputError(
                    f"expected a column named action in {path}, received {', '.join(columns)}. "
                    "See python -m systems.import_video --help."
                )
            # An empty line counts: it is an empty action where there is no other column.
            return [
                _step(dict(zip(columns, row, strict=False)), f"line {reader.line_num} of {path}")
                for row in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"expected a CSV file, received {path}: {one_line(error)}") from error


def _step(row, where):
    def number(column):
        text = row.get(column, "").strip() or "0"
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"expected a number as {column} in {where}, received {text!r}")
        return value

    action = row.get("action", "").strip()
    return Step(action, number("reward"), bool(number("termination")))


def _numbered(actions: Iterator[str]) -> tuple[list[str], dict[str, int]]:
    """The names of the actions in order, and the number of each action as it is written.

    They are numbers if all are, with or without zeros before them, and else by the alphabet.
    Numbers up to the highest count, because an action may not occur in these videos.
    """
    names = {action for action in actions if action}
    if names and all(re.fullmatch(r"0*\d{1,3}", name) for name in names):
        numbers = {name: int(name) for name in names}
        return [str(number) for number in range(max(numbers.values()) + 1)], numbers
    meanings = sorted(names)
    return meanings, {name: number for number, name in enumerate(meanings)}


def _frames(path: Path, max_height: int) -> Iterator[np.ndarray]:
    """Yields a video's frames, RGB uint8 (height, width, 3), of which there is at least one."""
    image = None
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                image = frame.to_ndarray(format="rgb24")
                height, width = image.shape[:2]
                if height > max_height:
                    size = max(round(width * max_height / height), 1), max_height
                    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                yield image
    except (av.FFmpegError, OSError, IndexError) as error:
        raise InputError(f"expected a video, received {path}: {one_line(error)}") from error
    if image is None:
        raise InputError(
            f"expected a video, received {path}, which holds no frame that can be read. Choose "
            "another, or record it again."
        )


def _episodes(frames, steps, numbers, shape, video, csv_file) -> Iterator[Episode]:
    """Yields the episodes of one video."""
    episode, count, missing = Episode(), 0, object()
    for frame, step in itertools.zip_longest(frames, steps, fillvalue=missing):
        if frame is missing or (step is missing and count > len(steps)):
            raise InputError(
                f"expected a line in {csv_file} for each frame of {video}, received "
                f"{len(steps)} lines and {count if frame is missing else 'more'} frames"
            )
        if frame.shape != shape:
            raise InputError(
                f"expected frames of {shape}, as in the first video, received {frame.shape} in "
                f"{video}. Give the videos one size."
            )
        count += 1
        episode.frames.append(zlib_ng.compress(np.ascontiguousarray(frame), ZLIB_LEVEL))
        if step is missing or not step.action:
            if episode.actions:
                yield episode
            episode = Episode()
            continue
        if episode.terminated:
            raise InputError(
                f"expected no action after a termination, received {step.action!r} in line "
                f"{count + 1} of {csv_file}. Leave it empty at an episode's last frame."
            )
        episode.actions.append(numbers[step.action])
        episode.rewards.append(step.reward)
        episode.terminated = step.termination
    if episode.actions:  # the last action led to a frame that is not in the video
        episode.cut(len(episode.actions) - 1)
        if episode.actions:
            yield episode


def parser() -> Parser:
    """The command line."""
    command = "python -m systems.import_video"
    parser = Parser(
        __doc__,
        prog=command,
        examples=[
            f"{command} game.mp4 actions.csv --game=my_game",
            f"{command} one.mp4 one.csv two.mp4 two.csv --game=my_game --name=both",
        ],
    )
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=user_path,
        metavar="VIDEO CSV",
        help="a video and its CSV file; may be followed by others",
    )
    add("--game", default="video", help="what the game is called")
    add("--name", default="play", help="what this play is called")
    add_data_path(add)
    add(
        "--max_height",
        type=whole_number(8),
        default=MAX_HEIGHT,
        help="pixels of a stored frame; larger ones are shrunk",
    )
    add("--overwrite", action="store_true", help="replace the data set if it is there already")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `python -m systems.import_video`."""
    flags = parser().parse_args(arguments)
    with exit_on_input_error():
        if len(flags.files) % 2:
            raise InputError(
                f"expected a CSV file after each video, received {len(flags.files)} files"
            )
        pairs = list(zip(flags.files[::2], flags.files[1::2], strict=True))
        existed = _directory(flags.data_path, flags.game, flags.name).is_dir()
        directory = import_videos(
            pairs, flags.game, flags.data_path, flags.name, flags.max_height, flags.overwrite
        )
        if existed and not flags.overwrite:
            say(f"{directory} is there already, nothing to do; --overwrite imports it again")
            return
        dataset = Dataset(directory)
        say(
            f"{directory}: {len(dataset.names)} episodes, {dataset.lengths.sum()} steps, frames of "
            f"{dataset.frame_shape}, actions {', '.join(dataset.action_meanings)}"
        )


if __name__ == "__main__":
    main()

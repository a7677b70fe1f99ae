"""Joins data sets of one game into a new one, which holds all their episodes.

    python -m systems.join --name round-2 \\
        --dataset data/pong/random-30000-seed1-v2 --dataset data/pong/agent-1a2b3c4d-10000-seed4-v2

It lies in data/pong/round-2-v1. Stages train on it by --training_data. A model that is trained on
what its agent has done knows where that leads. What is joined stays as it is. Where all have their
controlled pixels, so has the new one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from systems.arguments import Parser, add_data_path
from systems.dataset import CONTROLLED, Dataset
from systems.errors import InputError, exit_on_input_error, say, user_path
from systems.files import sync
from systems.metadata import FRAMES, METADATA, short
from systems.write_dataset import new_data_set

PALETTES = "palette", "grey_palette"
# What metadata.json says of one data set. All else has to be the same in those that are joined.
_OWN = ("dataset_id", "total_episodes", "total_steps", "dataset_size", "mean_episode_return")
_OWN += ("policy", "policy_settings", "seed", "versions", "joined", "videos", *PALETTES)


def join(
    directories: Sequence[Path], name: str, data_path: Path, observation_key: str | None = None
) -> Path:
    """Writes a data set of all episodes, in the order of the data sets.

    Args:
        directories: of two data sets or more.
        name: of the new one, letters, digits, _ and -.
        data_path: where all data sets lie.
        observation_key: which entry of Dict observations is the image; None: the only one. All
            entries are joined.

    Returns:
        the directory of its files, `data_path`/<game>/<name>-v1/data.

    Raises:
        InputError: they are not of one game as it was set once, there is one of that name already,
            or the disk refuses.
    """
    if len(directories) < 2:
        raise InputError(f"expected two data sets or more, received {len(directories)}")
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise InputError(
            f"expected a name of letters, digits, _ and -, received {name!r}; choose another"
        )
    datasets = [Dataset(directory, observation_key) for directory in directories]
    about = _common(datasets)
    dataset_id = f"{_game(datasets[0])}/{name}-v1"
    output = Path(data_path, dataset_id, "data")
    with new_data_set(output, overwrite=False) as new:
        if new is None:
            raise InputError(f"expected a new --name, received {name}, which {output} has already")
        new.mkdir(parents=True)
        _join_files(datasets, FRAMES, new)
        if all((dataset.directory / CONTROLLED).exists() for dataset in datasets):
            _join_files(datasets, CONTROLLED, new)
        about |= {
            "dataset_id": dataset_id,
            "joined": [dataset.metadata.get("dataset_id") for dataset in datasets],
            "total_episodes": sum(len(dataset.names) for dataset in datasets),
            "total_steps": int(sum(dataset.lengths.sum() for dataset in datasets)),
            "dataset_size": round((new / FRAMES).stat().st_size / 1e6, 1),
        }
        # All of them, because a part may be deleted once it is joined.
        videos = [video for dataset in datasets for video in dataset.metadata.get("videos", ())]
        if videos:
            about["videos"] = videos
        (new / METADATA).write_text(json.dumps(about) + "\n")
        for path in (*new.iterdir(), new, new.parent):
            sync(path)
    return output


def _game(dataset):
    """The game's name; if the data set has none, that of the directory that holds it, or "game"."""
    # Made absolute, because x or x/data names no directory above the data set.
    place = Path(os.path.abspath(dataset.directory))
    root = place.parent if place.name == "data" else place
    return dataset.game or root.parent.name or "game"


def _common(datasets):
    """The metadata that all have in common, with one palette."""
    first, *others = datasets
    about = {key: value for key, value in first.metadata.items() if key not in _OWN}
    for other in others:
        theirs = {key: value for key, value in other.metadata.items() if key not in _OWN}
        differs = [key for key in about | theirs if about.get(key) != theirs.get(key)]
        if differs:
            key = differs[0]
            raise InputError(
                f"expected data sets of one game as it was set once, but {key} is "
                f"{short(about.get(key))} in {first.directory} and {short(theirs.get(key))} in "
                f"{other.directory}"
            )
    for name in PALETTES:
        if name in first.metadata:
            about[name] = [
                _colour(entries, name, datasets)
                for entries in zip(*(each.metadata[name] for each in datasets), strict=True)
            ]
    return about


def _colour(entries, name, datasets):
    """An index' colour where any data set knows it, else None."""
    known = [entry for entry in entries if entry is not None]
    if any(entry != known[0] for entry in known):
        raise InputError(
            f"expected one {name}, but a colour is {known} in "
            f"{', '.join(str(dataset.directory) for dataset in datasets)}"
        )
    return known[0] if known else None


def _join_files(datasets, name, directory):
    """Copies all episodes of a file of each data set, numbered anew."""
    number = 0
    with h5py.File(directory / name, "w") as joined:
        for dataset in datasets:
            with h5py.File(dataset.directory / name) as file:
                for episode in dataset.names:
                    file.copy(episode, joined, f"episode_{number}")
                    if "id" in joined[f"episode_{number}"].attrs:
                        joined[f"episode_{number}"].attrs["id"] = np.int64(number)
                    number += 1


def parser() -> Parser:
    """The command line."""
    command = "python -m systems.join"
    parser = Parser(
        "Joins data sets of one game into a new one.",
        prog=command,
        examples=[
            f"{command} --name round-2 \\\n"
            "      --dataset data/freeway/persistent-30000-seed1-v2 \\\n"
            "      --dataset data/freeway/agent-1a2b3c4d-10000-seed4-v2"
        ],
    )
    add = parser.add_argument
    what = "directory of metadata.json and main_data.hdf5, or its parent; give two or more"
    add("--dataset", action="append", required=True, type=user_path, metavar="DIR", help=what)
    add("--name", default="joined", help="what the new data set is called")
    add("--observation_key", metavar="KEY", help="entry of Dict observations that is the image")
    add_data_path(add)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `python -m systems.join`."""
    flags = parser().parse_args(arguments)
    with exit_on_input_error():
        joined = join(flags.dataset, flags.name, flags.data_path, flags.observation_key)
        say(f"wrote {joined}")


if __name__ == "__main__":
    main()

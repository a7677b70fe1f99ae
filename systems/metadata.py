"""The metadata.json of a data set: reads it, and checks the entries that this project uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from systems.gymnasium_game import Environment, name_of
from systems.spaces import parsed

FRAMES, METADATA = "main_data.hdf5", "metadata.json"
NO_OPS = "no_ops"  # attribute of an episode's group


def directory_of_files(directory: str | Path) -> Path:
    """Returns where a data set's files lie: in `directory`, or in its `data`, as Minari nests."""
    nested = Path(directory) / "data"
    return nested if (nested / FRAMES).exists() else Path(directory)


def read_metadata(path: Path) -> dict:
    """Returns what metadata.json holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no JSON object, or an entry of another type than this project writes.
    """
    metadata = json.loads(path.read_text())
    if not isinstance(metadata, dict):
        raise ValueError(f"{path.name} should hold a JSON object, but holds {short(metadata)}.")
    for key, (expected, is_right) in _ENTRIES.items():
        if key in metadata and not is_right(metadata[key]):
            raise ValueError(
                f"{key} in {path.name} should be {expected}, but is {short(metadata[key])}."
            )
    return metadata


def game_of(metadata: dict) -> str | None:
    """Returns the game's name; None if the metadata names none.

    Args:
        metadata: see `systems.spaces.parsed`.

    Raises:
        ValueError: the name is not where Minari writes it.
    """
    if "game" in metadata:
        return metadata["game"]
    spec = metadata.get("env_spec")
    return None if spec is None else name_of(_entry(spec, "id", str, "env_spec"))


def environment_of(metadata: dict) -> Environment | None:
    """Returns the environment that `systems.record` played; None if it played none.

    Raises:
        ValueError: the entry holds something else.
    """
    entry = metadata.get("environment")
    if entry is None:
        return None
    kwargs, key = entry.get("kwargs"), entry.get("observation_key")
    if not (isinstance(kwargs, dict) and (key is None or isinstance(key, str))):
        raise ValueError(f"environment in metadata.json is {short(entry)}.")
    return Environment(_entry(entry, "id", str, "environment"), kwargs, key)


def game_of_directory(directory: str | Path) -> str | None:
    """Returns the game of a data set; None if it does not tell, or cannot be read."""
    try:
        return game_of(parsed(read_metadata(directory_of_files(directory) / METADATA)))
    except (OSError, ValueError):
        return None


def action_meanings_of(metadata: dict) -> list[str]:
    """Returns the name of each action, in order; its number as text if it has no name.

    Raises:
        ValueError: the number of actions is not where Minari writes it.
    """
    if "action_meanings" in metadata:
        return metadata["action_meanings"]
    count = _entry(metadata.get("action_space"), "n", int, "action_space")
    return [str(action) for action in range(count)]


def _entry(content, key, kind, place):
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{place} in metadata.json has no {key!r}.")
    return value


def short(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_whole(low: int, high: float = float("inf")) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_list(is_right: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list)
        and len(value) > 0
        and length in (None, len(value))
        and all(map(is_right, value))
    )


def _is_table(is_colour: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """256 colours, of which some may be null, but not all."""
    entries = _is_list(lambda value: value is None or is_colour(value), 256)
    return lambda value: entries(value) and any(entry is not None for entry in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# What each entry should be, in words, and whether a value is that.
_ENTRIES = {
    "data_format": ('"hdf5", of the formats that Minari writes', lambda value: value == "hdf5"),
    "game": ("a name", _is_text),
    "action_meanings": ("a list of names", _is_list(_is_text)),
    "frame_skip": ("a whole number of at least 1", _is_whole(1)),
    "pooled_frames": ("a whole number of at least 1", _is_whole(1)),
    "max_episode_frames": ("a whole number of at least 0", _is_whole(0)),
    "repeat_action_probability": (
        "a number from 0 to 1",
        lambda value: type(value) in (int, float) and 0 <= value <= 1,
    ),
    "palette": (
        "256 entries, each three numbers from 0 to 255 or null",
        _is_table(_is_list(_is_whole(0, 255), 3)),
    ),
    "grey_palette": (
        "256 entries, each a number from 0 to 255 or null",
        _is_table(_is_whole(0, 255)),
    ),
}

"""Gymnasium's spaces, as Minari writes them in metadata.json: what they are called and allow."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


class SpaceError(ValueError):
    """Observations or actions are of a kind that this project does not read.

    The text says what was expected, what was received and what to do.
    """


class AmbiguousImage(SpaceError):
    """Dict observations hold several images, and nobody has said which is meant."""


def parsed(metadata: dict) -> dict:
    """Returns metadata whose spaces and specification are objects instead of JSON in strings.

    The limits of a Box are its least and its greatest value alone.

    Raises:
        ValueError: a string holds no JSON.
    """
    texts = {key: metadata.get(key) for key in ("observation_space", "action_space", "env_spec")}
    content = {
        key: json.loads(text) if isinstance(text, str) else text
        for key, text in texts.items()
        if text is not None
    }
    for key in ("observation_space", "action_space"):
        _shorten(content.get(key))
    return {**metadata, **content}


def _shorten(space):
    if not isinstance(space, dict):
        return
    if limits := bounds(space):
        space["low"], space["high"] = limits
    parts = space.get("subspaces")
    for part in parts.values() if isinstance(parts, dict) else parts or ():
        _shorten(part)


def named(space: Any) -> str | None:
    """Returns a space in Gymnasium's own words; None if the metadata names none."""
    kind = space.get("type") if isinstance(space, dict) else None
    if kind == "Box":
        limits = bounds(space)
        ends = f"{limits[0]:g}, {limits[1]:g}, " if limits else ""
        return f"Box({ends}{tuple(space.get('shape') or ())}, {space.get('dtype')})"
    if kind == "Discrete":
        start = f", start={space['start']}" if space.get("start") else ""
        return f"Discrete({space.get('n')}{start})"
    if kind == "MultiDiscrete":
        return f"MultiDiscrete({space.get('nvec')})"
    if kind == "MultiBinary":
        return f"MultiBinary({space.get('n')})"
    if kind == "Dict" and isinstance(space.get("subspaces"), dict):
        parts = (f"{name}: {named(part)}" for name, part in space["subspaces"].items())
        return f"Dict({', '.join(parts)})"
    if kind == "Tuple" and isinstance(space.get("subspaces"), list):
        return f"Tuple({', '.join(str(named(part)) for part in space['subspaces'])})"
    return None if kind is None else str(kind)


def subspace(space: Any, path: str) -> dict | None:
    """Returns the space of an entry of a Dict, such as "camera/image"; None if there is none."""
    for name in path.split("/"):
        parts = space.get("subspaces") if isinstance(space, dict) else None
        space = parts.get(name) if isinstance(parts, dict) else None
    return space


def bounds(space: Any) -> tuple[float, float] | None:
    """Returns the least and the greatest value that a Box allows; None if it does not tell."""
    try:
        return float(np.min(space["low"])), float(np.max(space["high"]))
    except (KeyError, TypeError, ValueError):
        return None

"""How the emulator was set when a data set was recorded, as its metadata tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from systems.atari import FRAME_SKIP, USUAL_POOLED_FRAMES, is_atari
from systems.errors import InputError

# By the end of the id: the frame skip and the probability of sticky actions that Gymnasium sets
# where the keywords of the specification say nothing else.
_DEFAULTS = {
    "-v5": (4, 0.25),
    "NoFrameskip-v4": (1, 0.0),
    "NoFrameskip-v0": (1, 0.25),
    "Deterministic-v4": (4, 0.0),
    "Deterministic-v0": (4, 0.25),
    "-v4": ((2, 5), 0.0),
    "-v0": ((2, 5), 0.25),
}


@dataclass(frozen=True)
class EmulatorOptions:
    """What Gymnasium's emulator may be told beyond frame skip and pooling. By default nothing.

    `systems.atari.AtariGame` plays modes and difficulties alone.

    Attributes:
        random_frame_skip: the least frame skip, and the one above the greatest; None: it is fixed.
        repeat_action_probability: how often the emulator repeats the action before ("sticky").
        full_action_space: whether all 18 actions were played, not those of the game alone.
        mode, difficulty: of the game; 0 is its own default.
    """

    random_frame_skip: tuple[int, ...] | None = None
    repeat_action_probability: float = 0.0
    full_action_space: bool = False
    mode: int = 0
    difficulty: int = 0

    def require_playable(self, num_actions: int, least_actions: int) -> None:
        """Checks that the emulator can be played as it was recorded.

        Args:
            num_actions: how many actions were recorded.
            least_actions: how many do something in the game.

        Raises:
            InputError: it cannot.
        """
        found = []
        if self.random_frame_skip:
            low, high = self.random_frame_skip
            found.append(f"a random frame skip from {low} to {high - 1}")
        if self.repeat_action_probability:
            found.append(f"sticky actions (probability {self.repeat_action_probability:g})")
        if self.full_action_space and num_actions != least_actions:
            found.append(f"the full action set of {num_actions} instead of {least_actions}")
        if found:
            raise InputError(
                "expected a checkpoint of data that the emulator here can play: a fixed frame "
                "skip, no sticky actions and the game's own actions. Received one of data "
                f"with {', '.join(found)}. What needs no emulator works: evaluate.py, "
                "generate_video.py, the environment. To play, train on other data."
            )


def emulation_of(metadata: dict) -> tuple[int, int, EmulatorOptions]:
    """Returns how the emulator was set.

    ALE shows its last frame alone. Two of Gymnasium's wrappers show the brighter of the last two.

    An environment that is no Atari game has a frame skip of 1 and no options. Without a
    specification, this project's recordings are assumed.

    Args:
        metadata: see `systems.spaces.parsed`. Its own entries come before the specification's.

    Returns:
        Frame skip: the least one if it is random.
        Pooled frames: the emulated frames that a screen combines.
        Options: the emulator's others.

    Raises:
        ValueError: the specification holds another type than Gymnasium writes.
    """
    skip, sticky, options = FRAME_SKIP, 0.0, {}
    spec = metadata.get("env_spec")
    if isinstance(spec, dict):
        name = spec.get("id") or ""
        if not is_atari(name):
            return metadata.get("frame_skip", 1), 1, EmulatorOptions()
        ending = re.search(r"(NoFrameskip|Deterministic)?-v\d+$", name)
        known = _DEFAULTS.get(ending[0]) or _DEFAULTS.get(ending[0][-3:]) if ending else None
        skip, sticky = known or (skip, sticky)
        options = spec.get("kwargs") or {}
        skip = options.get("frameskip", skip)
        sticky = options.get("repeat_action_probability", sticky)
    skips = _frame_skips(skip)
    pooled = 1 if isinstance(spec, dict) else USUAL_POOLED_FRAMES
    for wrapper in (spec.get("additional_wrappers") or ()) if isinstance(spec, dict) else ():
        kwargs = wrapper.get("kwargs") or {}
        if wrapper.get("name") == "AtariPreprocessing":
            skips = [each * kwargs.get("frame_skip", 4) for each in skips]
            pooled = min(kwargs.get("frame_skip", 4), 2)
        elif wrapper.get("name") == "MaxAndSkipObservation":
            skips = [each * kwargs.get("skip", 4) for each in skips]
            pooled = 2
        elif wrapper.get("name") == "StickyAction":
            sticky = 1 - (1 - sticky) * (1 - kwargs.get("repeat_action_probability", 0))
    if "frame_skip" in metadata:
        skips = [metadata["frame_skip"]]
    sticky = metadata.get("repeat_action_probability", sticky)
    low, high = skips[0], skips[-1]
    return (
        low,
        metadata.get("pooled_frames", pooled),
        EmulatorOptions(
            random_frame_skip=(low, high + 1) if low != high else None,
            repeat_action_probability=float(sticky or 0),
            full_action_space=bool(options.get("full_action_space", False)),
            mode=int(metadata.get("mode", options.get("mode")) or 0),
            difficulty=int(metadata.get("difficulty", options.get("difficulty")) or 0),
        ),
    )


def _frame_skips(value: Any) -> list[int]:
    """The frame skip; if it is random, the least and the greatest."""
    if type(value) is int and value >= 1:
        return [value]
    if isinstance(value, list | tuple) and len(value) == 2 and all(type(v) is int for v in value):
        return [value[0], max(value[1] - 1, value[0])]
    raise ValueError(f"frameskip of env_spec in metadata.json is {value}, no whole number or pair.")

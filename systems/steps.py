"""The actions, rewards and terminations of an episode, checked when a data set is opened."""

from __future__ import annotations

import h5py
import numpy as np

from systems.spaces import SpaceError, named

STEP_KEYS = ("actions", "rewards", "terminations")


def read_steps(
    name: str, group: h5py.Group, count: int, start: int, num_actions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns an episode's actions from 0, rewards and terminations.

    Args:
        name: of the episode, for messages.
        group: the episode's.
        count: of its steps.
        start: the number of the first action.
        num_actions: how many there are.

    Returns:
        int32 (count,), float32 (count,) and bool (count,).

    Raises:
        SpaceError: an action is not in the action space, or a reward is no finite number.
        ValueError: there are more or fewer than `count`.
    """
    actions = group["actions"]
    if isinstance(actions, h5py.Group):
        raise no_discrete(f"{', '.join(actions)} as the parts of each action of {name}")
    actions = actions[()]
    if actions.ndim > 1 or actions.dtype.kind not in "iu":
        raise no_discrete(f"{actions.dtype} {actions.shape[1:]} for each step of {name}")
    # A number beyond float32 becomes infinite, and is refused below.
    with np.errstate(over="ignore"):
        rewards = group["rewards"][:].astype(np.float32)
    terminations = group["terminations"][:].astype(bool)
    for key, values in zip(STEP_KEYS, (actions, rewards, terminations), strict=True):
        if values.shape != (count,):
            raise ValueError(
                f"{name} has {count + 1} observations and so should have {count} {key}, but "
                f"these have the shape {values.shape}."
            )
    if (wrong := (actions < start) | (actions >= start + num_actions)).any():
        step = int(wrong.argmax())
        raise SpaceError(
            f"expected actions from {start} to {start + num_actions - 1}, as metadata.json says, "
            f"received {actions[step]} at step {step} of {name}. Record the data set again."
        )
    if not np.isfinite(rewards).all():
        step = int((~np.isfinite(rewards)).argmax())
        raise SpaceError(
            f"expected finite rewards, received {group['rewards'][step]} at step {step} of {name}. "
            "Record the data set again, or leave that episode out."
        )
    return (actions - start).astype(np.int32), rewards, terminations


def no_discrete(found: str) -> SpaceError:
    """Returns the refusal of actions that are not numbered."""
    return SpaceError(
        f"expected actions that are numbered, Discrete(n), received {found}. "
        "Choose a data set with Discrete actions, or number the actions and record it again."
    )


def first_action(space: dict | None) -> int:
    """Returns the number of the first action of a Discrete space; 0 if there is no space.

    Raises:
        SpaceError: the space is another one.
    """
    if not isinstance(space, dict):
        return 0
    if space.get("type", "Discrete") != "Discrete":
        raise no_discrete(named(space))
    start = space.get("start", 0)
    if type(start) is not int:
        raise ValueError(f"start of action_space in metadata.json is {start}, no whole number.")
    return start

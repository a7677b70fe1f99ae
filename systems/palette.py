"""The colours behind the palette indices of a game's screens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from systems.errors import InputError

if TYPE_CHECKING:
    from systems.dataset import Dataset


class Colour(NamedTuple):
    """The colour of a palette index, in 0..255, and the first frame that shows it."""

    frame: int
    index: int
    rgb: tuple[int, int, int]
    grey: int


class Palette:
    """The colours behind a game's palette indices.

    ALE has no call for them, but RGB and grey screens are fixed functions of the index. Each colour
    is learned from the frame in which its index first appears.

    Attributes:
        rgb: [256, 3] uint8, in R, G, B order; zero where `known` is false.
        grey: [256] uint8; zero where `known` is false.
        known: [256] bool, the indices seen so far.
    """

    def __init__(self) -> None:
        self.rgb = np.zeros((256, 3), np.uint8)
        self.grey = np.zeros(256, np.uint8)
        self.known = np.zeros(256, bool)
        self._known_bytes = b""

    def covers(self, frame: np.ndarray) -> bool:
        """Returns whether every index in `frame`, uint8 of any shape, has been seen before."""
        return not frame.tobytes().translate(None, self._known_bytes)

    def learn(self, frame: np.ndarray, rgb: np.ndarray, grey: np.ndarray) -> None:
        """Adds the colours of one frame and checks those already known.

        Args:
            frame: [H, W] uint8 palette indices.
            rgb: [H, W, 3] uint8, the same frame in colour.
            grey: [H, W] uint8, the same frame in grey.

        Raises:
            RuntimeError: an index does not always have the same colour.
        """
        new_rgb, new_grey = self.rgb.copy(), self.grey.copy()
        new_rgb[frame], new_grey[frame] = rgb, grey
        if not (
            np.array_equal(new_rgb[frame], rgb)
            and np.array_equal(new_grey[frame], grey)
            and np.array_equal(new_rgb[self.known], self.rgb[self.known])
            and np.array_equal(new_grey[self.known], self.grey[self.known])
        ):
            raise RuntimeError(
                "expected every palette index to keep its colour, received a frame in which one "
                "changed: palette indices cannot stand for this game's screens"
            )
        self.rgb, self.grey = new_rgb, new_grey
        self.known[frame] = True
        self._known_bytes = np.flatnonzero(self.known).astype(np.uint8).tobytes()


def tables(
    colours: Iterable[Colour],
) -> tuple[list[tuple[int, int, int] | None], list[int | None]]:
    """Returns the tables, 256 entries each, from palette index to RGB and to grey.

    The entry of an index that no frame shows is None.
    """
    known: dict[int, tuple[tuple[int, int, int], int]] = {}
    for colour in colours:
        values = (colour.rgb, colour.grey)
        if known.setdefault(colour.index, values) != values:
            raise RuntimeError(
                f"expected palette index {colour.index} to be {known[colour.index]} in every "
                f"episode, received {values}"
            )
    unknown = (None, None)
    rgb, grey = zip(*(known.get(index, unknown) for index in range(256)), strict=True)
    return list(rgb), list(grey)


def palette(datasets: Sequence[Dataset]) -> np.ndarray | None:
    """Returns the RGB of each palette index in several data sets of one game.

    An index that none of their frames shows takes the colour of the nearest index.

    Returns:
        uint8 (256, 3); None if the frames of all data sets are RGB.

    Raises:
        InputError: the data sets give one index different colours.
    """
    merged = known_colours(datasets)
    return None if merged is None else complete(merged)


def known_colours(datasets: Sequence[Dataset]) -> list | None:
    """Returns the RGB of each palette index that several data sets show, None for the others.

    Returns:
        256 entries; None if the frames of all data sets are RGB.

    Raises:
        InputError: the data sets give one index different colours.
    """
    merged = None
    for dataset in datasets:
        table = dataset.known_colours()
        if table is None:
            continue
        merged = merged or [None] * 256
        for index, colour in enumerate(table):
            if colour is not None and merged[index] not in (None, colour):
                raise InputError(
                    f"expected palette index {index} to be {merged[index]} in {dataset.directory} "
                    f"as in the other data sets, received {colour}. Name data sets of one game."
                )
            merged[index] = merged[index] or colour
    return merged


def complete(table: list) -> np.ndarray:
    """A table, 256 entries, in which None is the nearest known entry; uint8 (256, ...)."""
    known = [index for index, entry in enumerate(table) if entry is not None]
    nearest = (min(known, key=lambda other: abs(other - index)) for index in range(256))
    return np.array([table[index] for index in nearest], np.uint8)

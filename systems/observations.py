"""What the observations of a data set are: finds the image in them, and makes frames of it.

A frame is uint8: palette indices (height, width), grey (height, width, 1) or RGB
(height, width, 3). `understand` refuses all that is no image. It never guesses between an image
and numbers of another kind. docs/data.md lists what is taken for what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import h5py
import numpy as np

from systems.spaces import AmbiguousImage, SpaceError, bounds, named, subspace

MIN_SIDE = 8  # of an image; the 7x7 views of MiniGrid hold codes of objects, not colours
MAX_STACK = 16  # frames of a stack
_JPEG = b"\xff\xd8\xff"  # how every JPEG file begins
_EXPECTED = (
    "expected observations that are an image: (height, width), (height, width, channels), "
    "(channels, height, width) or a stack of such frames"
)


@dataclass(frozen=True)
class Observations:
    """Where an episode's image lies, and how frames are made of it.

    Attributes:
        path: of the image in the episode's group, such as "observations/image".
        frame_shape: of a frame: (height, width) of palette indices, (height, width, 1) of grey
            or (height, width, 3) of RGB.
        stored: dtype, and the shape of one observation as it is stored.
        jpeg: whether each observation is a JPEG file.
        part: which part of a stored observation is the newest frame, as an index.
        first: whether the frame's channels come first.
        unit: whether values go from 0 to 1 instead of 255.
        text: all this in one line for the user; None for palette indices.
    """

    path: str
    frame_shape: tuple[int, ...]
    stored: tuple[str, tuple[int, ...]]
    jpeg: bool
    part: tuple = ()
    first: bool = False
    unit: bool = False
    text: str | None = None

    def read(self, group: h5py.Group, numbers: np.ndarray) -> np.ndarray:
        """Returns some frames of an episode, uint8 (frames, *frame_shape).

        Args:
            group: the episode's.
            numbers: of the frames, ascending.

        Raises:
            ValueError: a value lies outside its range.
        """
        source = group[self.path]
        begin, end = int(numbers[0]), int(numbers[-1])
        if end - begin == len(numbers) - 1:  # reading them at once takes half the time
            values = source[(slice(begin, end + 1), *self.part)]
        else:
            values = np.stack([source[(int(number), *self.part)] for number in numbers])
        return self.frames(values)

    def frames(self, values: np.ndarray) -> np.ndarray:
        """Returns frames, uint8 (frames, *frame_shape), made of what is stored."""
        if self.jpeg:
            values = np.stack([_decoded(one) for one in values])
        if self.first:
            values = np.moveaxis(values, 1, -1)
        if values.dtype != np.uint8:
            values = _levels(values, self.unit)
        return np.ascontiguousarray(values).reshape(len(values), *self.frame_shape)


def understand(group: h5py.Group, metadata: dict, key: str | None = None) -> Observations:
    """Finds the image in an episode's observations.

    Args:
        group: the episode's.
        metadata: of the data set, see `systems.spaces.parsed`. With a palette, uint8 (height,
            width) are palette indices.
        key: which entry of Dict observations to take. None: the only image.

    Raises:
        SpaceError: there is no image, or no telling which is meant.
        KeyError: there are no observations.
    """
    observations = group["observations"]
    space = metadata.get("observation_space")
    if isinstance(observations, h5py.Dataset):
        if key is not None:
            raise SpaceError(
                f"expected Dict observations with --observation_key={key}, received "
                f"{named(space) or _stored_text(observations)}. Leave the flag out."
            )
        return _image(observations, "observations", space, metadata)
    if any(name.startswith("_index_") for name in observations):
        found = named(space) or f"Tuple of {len(observations)} parts"
        raise SpaceError(
            f"{_EXPECTED}, received {found}. Tuple observations are not read. "
            "Record the image alone, or as an entry of Dict observations."
        )
    images, others = {}, {}
    for name, leaf in _leaves(observations):
        try:
            images[name] = _image(leaf, f"observations/{name}", subspace(space, name), metadata)
        except SpaceError as error:
            others[name] = error
    keys = ", ".join([*images, *others])
    if key is not None:
        if key in images:
            return images[key]
        if key in others:
            raise SpaceError(f"--observation_key={key}: {others[key]}")
        raise SpaceError(
            f"expected --observation_key to be one of {keys}, received {key}. Name one of them."
        )
    if len(images) == 1:
        return next(iter(images.values()))
    found = named(space) or f"Dict({keys})"
    if not images:
        raise SpaceError(f"{_EXPECTED}, received {found}. Choose data with an image.")
    raise AmbiguousImage(
        f"expected one image in Dict observations, received {found}, where {', '.join(images)} "
        "are images. Name one of them by --observation_key."
    )


def _leaves(group: h5py.Group, before: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    for name in group:
        if isinstance(group[name], h5py.Group):
            yield from _leaves(group[name], f"{before}{name}/")
        else:
            yield before + name, group[name]


def _image(source, path, space, metadata) -> Observations:
    """What an array of observations is; raises SpaceError if it is no image."""
    kind, shape = source.dtype, source.shape[1:]
    found = named(space) or _stored_text(source)
    if source.ndim == 0 or not len(source):
        raise SpaceError(f"{_EXPECTED}, received {found}. Choose data with an image.")
    if _holds_jpeg(source, space):
        shape = _decoded(source[0]).shape
        if min(shape[:2]) < MIN_SIDE:
            raise SpaceError(f"{_EXPECTED}, received JPEG images of {shape}. Choose larger ones.")
        colours = "RGB" if shape[2:] else "grey"
        return Observations(
            path,
            shape if shape[2:] else (*shape, 1),
            ("JPEG", shape),
            jpeg=True,
            text=f"JPEG images {shape}, {colours}",
        )
    if len(shape) == 2 and ("palette" in metadata or "grey_palette" in metadata):
        if kind != np.uint8:
            raise SpaceError(
                f"expected palette indices of uint8, as metadata.json has a palette, received "
                f"{found}, stored as {kind}. Remove the palette or record the frames again."
            )
        for key in ("palette", "grey_palette"):
            if key not in metadata:
                raise ValueError(
                    "its frames should be palette indices, whose colours metadata.json gives, but "
                    f"{key} is missing there."
                )
        return Observations(path, shape, ("uint8", shape), jpeg=False)
    if kind.kind not in "uifb":
        raise SpaceError(
            f"{_EXPECTED}, of numbers, received {found}, stored as {kind}. Choose data with an "
            "image."
        )
    layout = _layout(shape, _stack_size(metadata))
    if layout is None or (kind.kind == "b" and layout.stack):
        advice = "They look like numbers of another kind, such as RAM or positions, "
        raise SpaceError(f"{_EXPECTED}, received {found}. {advice}which no frames are made of.")
    unit = kind != np.uint8 and _is_unit(source, layout.part, space, found)
    scale = "" if kind == np.uint8 else f" in 0 to {'1, scaled to 255' if unit else '255'}"
    colours = "RGB" if layout.channels == 3 else "grey"
    order = f"{colours}, channels first" if layout.first else colours
    what = f"a stack of {layout.stack} {order} frames; the newest is taken"
    return Observations(
        path,
        (*layout.size, layout.channels),
        (str(kind), shape),
        jpeg=False,
        part=layout.part,
        first=layout.first,
        unit=unit,
        text=f"{kind} {shape}{scale}, {what if layout.stack else order}",
    )


@dataclass(frozen=True)
class _Layout:
    size: tuple[int, int]  # height and width
    channels: int = 1
    first: bool = False  # whether channels come before them
    stack: int = 0  # frames
    part: tuple = ()  # where the newest frame is


def _layout(shape, stack) -> _Layout | None:
    """How an observation of a shape is to be read; None if it is no image.

    Args:
        shape: of one observation.
        stack: how many frames the environment's wrappers stack on a new first axis; 0: none.
    """
    every = slice(None)
    if len(shape) == 2:
        layout = _Layout(shape)
    elif len(shape) == 3:
        begin, end = shape[0] < min(shape[1:]), shape[2] < min(shape[:2])
        if begin == end or min(shape) > MAX_STACK:
            return None
        count, size = (shape[0], shape[1:]) if begin else (shape[2], shape[:2])
        if begin and stack == count:
            layout = _Layout(size, stack=count, part=(count - 1,))
        elif count == 1 or count == 3:
            layout = _Layout(size, count, first=begin)
        elif count % 3 == 0:  # as Stable-Baselines3 stacks RGB
            part = slice(count - 3, count)
            part = (part,) if begin else (every, every, part)
            layout = _Layout(size, 3, first=begin, stack=count // 3, part=part)
        else:
            part = (count - 1,) if begin else (every, every, count - 1)
            layout = _Layout(size, stack=count, part=part)
    elif len(shape) == 4 and shape[0] <= MAX_STACK:
        inner = _layout(shape[1:], 0)
        if inner is None or inner.stack:
            return None
        layout = _Layout(inner.size, inner.channels, inner.first, shape[0], (shape[0] - 1,))
    else:
        return None
    return layout if min(layout.size) >= MIN_SIDE else None


def _stack_size(metadata):
    """How many frames the environment's wrappers stack, as its specification says; 0: none."""
    spec = metadata.get("env_spec")
    wrappers = spec.get("additional_wrappers") if isinstance(spec, dict) else None
    for wrapper in wrappers or ():
        if wrapper.get("name") in ("FrameStackObservation", "FrameStack"):
            kwargs = wrapper.get("kwargs") or {}
            return kwargs.get("stack_size", kwargs.get("num_stack", 0))
    return 0


def _holds_jpeg(source, space) -> bool:
    if source.dtype == object or h5py.check_vlen_dtype(source.dtype) is not None:
        first = source[0]
        return isinstance(first, np.ndarray) and first.dtype == np.uint8 and _is_jpeg(first)
    # Minari writes files of one length as an array. RAM never has a space of an image's shape.
    image = not isinstance(space, dict) or len(space.get("shape") or ()) in (2, 3)
    return source.dtype == np.uint8 and source.ndim == 2 and image and _is_jpeg(source[0])


def _is_jpeg(content):
    return content[: len(_JPEG)].tobytes() == _JPEG


def _decoded(content):
    """A JPEG file's image, uint8 (height, width) or (height, width, 3)."""
    image = cv2.imdecode(np.ascontiguousarray(content), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("a JPEG image is damaged.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image.ndim == 3 else image


def _is_unit(source, part, space, found):
    """Whether values go from 0 to 1. Some frames are looked at, and have to agree with the space.

    Raises:
        SpaceError: they go beyond 0 to 255, or the space says otherwise.
    """
    if source.dtype == bool:
        return True
    numbers = {0, len(source) // 2, len(source) - 1}
    values = np.stack([source[(number, *part)] for number in sorted(numbers)])
    low, high = float(values.min()), float(values.max())
    floats = source.dtype.kind == "f"
    least, most = bounds(space) or (-np.inf, np.inf)
    if max(-least, most) > 255:  # the space does not tell
        least, limit = 0, 1 if floats and high <= 1 else 255
    else:
        limit = 1 if most <= 1 else 255
    scaled = limit == 255 and floats and 0 < high < 1 and bool((values % 1).any())
    if least < 0 or not (low >= 0 and high <= limit) or (scaled and most == 255):
        raise SpaceError(
            f"expected image observations from 0 to 1 or from 0 to 255, as their space says, "
            f"received values from {low:g} to {high:g} of {found}. Record the frames as uint8."
        )
    return limit == 1


def _levels(values, unit):
    """Values from 0 to 1, or from 0 to 255, as uint8.

    Raises:
        ValueError: one lies outside.
    """
    limit = 1 if unit else 255
    if not (values.min() >= 0 and values.max() <= limit):
        raise ValueError(
            f"its observations should go from 0 to {limit}, but go from {values.min()} to "
            f"{values.max()}."
        )
    if unit:
        return np.rint(values * np.float32(255)).astype(np.uint8)
    return np.rint(values).astype(np.uint8)


def _stored_text(source):
    return f"{source.dtype} {source.shape[1:]}"

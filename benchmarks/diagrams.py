"""The diagrams of README and docs, drawn as SVG: the two roll-outs, the network, the way of data.

Each is 800 pixels wide on white, so that it is read alike on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from model.operations import parameters
from model.presets import PRESETS

WIDTH = 800
INK, GREY, REAL, IMAGINED, CODE = "#1f2933", "#7b8794", "#2f7d4f", "#c2410c", "#1d4ed8"
FILLS = {INK: "#f1f5f9", GREY: "#f8fafc", REAL: "#e3f5ea", IMAGINED: "#fdeee3", CODE: "#e4ecfd"}
NUM_ACTIONS = 18  # the most that a game has


class Drawing:
    """An SVG that is drawn from top to bottom.

    Args:
        height: in pixels.
        title: what a screen reader says.
    """

    def __init__(self, height: int, title: str):
        self._height = height
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img" '
            'font-family="Helvetica, Arial, sans-serif">',
            f"<title>{escape(title)}</title>",
            "<defs>" + "".join(_head(color) for color in FILLS) + "</defs>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        ]

    def text(self, x, y, text, size=14, color=INK, anchor="middle", weight="normal"):
        """Writes a line, its baseline at y."""
        self._parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(text)}</text>'
        )

    def box(self, x, y, width, height, lines, color=INK, size=14):
        """A box with lines of text in its middle; the first is bold where there are several."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" '
            f'fill="{FILLS[color]}" stroke="{color}" stroke-width="1.5"/>'
        )
        step = size + 4
        first = y + height / 2 - step * (len(lines) - 1) / 2 + size * 0.35
        for i, line in enumerate(lines):
            weight = "bold" if not i and len(lines) > 1 else "normal"
            self.text(x + width / 2, round(first + i * step, 1), line, size, INK, weight=weight)

    def arrow(self, *points, color=INK, dashed=False):
        """A line through points, with a head at its end."""
        path = " L ".join(f"{x} {y}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<path d="M {path}" fill="none" stroke="{color}" stroke-width="2"{dashes} '
            f'marker-end="url(#head{color[1:]})"/>'
        )

    def svg(self) -> str:
        """The whole file."""
        return "\n".join([*self._parts, "</svg>"]) + "\n"


def _head(color):
    return (
        f'<marker id="head{color[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" '
        f'markerHeight="6" orient="auto"><path d="M 0 0 L 10 5 L 0 10 z" fill="{color}"/></marker>'
    )


def rollouts() -> str:
    """How the two variants imagine: one through frames, one inside the LSTM."""
    drawing = Drawing(490, "The two roll-outs: paper feeds frames back, compression the LSTM alone")
    _variant(drawing, 0, "paper: each predicted frame is encoded again", through_frames=True)
    _variant(drawing, 250, "compression: the LSTM feeds itself", through_frames=False)
    return drawing.svg()


def _variant(drawing, top, title, through_frames):
    drawing.text(20, top + 28, title, 17, anchor="start", weight="bold")
    lefts = (40, 300, 560)
    frames, lstm, outputs = top + 200, top + 122, top + 48
    given = "memory" if through_frames else "memory and output"
    for i, left in enumerate(lefts):
        middle = left + 60
        drawing.box(left, lstm, 120, 34, ["LSTM"], CODE, 15)
        imagined = f"imagined frame {i + 1}"
        # Compression draws frames only to be looked at, hence the dashed arrow.
        looked_at = not through_frames
        drawing.arrow((middle, lstm), (middle, outputs + 34), color=IMAGINED, dashed=looked_at)
        drawing.text(middle + 8, lstm - 14, "decode", 14, GREY, "start")
        drawing.box(left - 15, outputs, 150, 34, [imagined], IMAGINED)
        if i + 1 < len(lefts):
            following = lefts[i + 1]
            drawing.arrow((left + 120, lstm + 17), (following, lstm + 17), color=CODE)
            # Left of where the paper variant's arrow crosses.
            drawing.text(left + 128, lstm + 11, given, 14, GREY, "start")
        if not i:
            drawing.arrow((middle, frames), (middle, lstm + 34), color=REAL)
            drawing.text(middle + 8, lstm + 60, "encode", 14, GREY, "start")
            drawing.box(left - 15, frames, 150, 34, ["ten real frames"], REAL)
        elif through_frames:
            # From the frame before, down between the columns, and in from below.
            between = lefts[i - 1] + 190
            source = lefts[i - 1] + 135
            drawing.arrow(
                (source, outputs + 17),
                (between, outputs + 17),
                (between, frames + 4),
                (middle, frames + 4),
                (middle, lstm + 34),
                color=IMAGINED,
            )
            drawing.text(middle + 8, lstm + 60, "encode", 14, GREY, "start")
        drawing.text(left + 128, lstm + 52, "action", 14, INK, "start")
        drawing.arrow((left + 126, lstm + 46), (left + 106, lstm + 35))


def architecture() -> str:
    """The network's parts with shapes and numbers of parameters."""
    drawing = Drawing(540, "The network: encoder, action-gated LSTM, decoder and heads")
    for left, name in ((20, "lstm_84x84x1"), (410, "lstm_210x160x3")):
        preset = PRESETS[name]
        count = parameters(preset, NUM_ACTIONS)
        total, convolutions = sum(count) / 1e6, count.decoder_convolutions
        drawing.text(left + 185, 28, f"{name}: {total:.0f} million", 17, weight="bold")
        height, width, channels = preset.frame_shape
        seen = f"{height} x {width} x {channels * preset.stack}"
        frames = "frame" if preset.stack == 1 else "frames"
        rows, columns, features = preset.decoder_start
        grid = f"{rows} x {columns} x {features}"
        parts = [
            ([f"{preset.stack} {frames}", seen], REAL),
            ([f"{len(preset.encoder)} convolutions", _size(count.encoder_convolutions)], INK),
            ([f"dense, {grid} to {preset.units}", _size(count.encoder_dense)], INK),
            (["action gate, LSTM", f"{preset.units} units, {_size(count.core)}"], CODE),
            ([f"dense, {preset.units} to {grid}", _size(count.decoder_dense)], INK),
            ([f"{len(preset.decoder)} transposed convolutions", _size(convolutions)], INK),
            (["next frame", f"{height} x {width} x {channels}"], IMAGINED),
        ]
        for i, (lines, color) in enumerate(parts):
            top = 46 + i * 72
            drawing.box(left + 10, top, 240, 50, lines, color)
            if i + 1 < len(parts):
                drawing.arrow((left + 130, top + 50), (left + 130, top + 72))
        core = 46 + 3 * 72
        drawing.box(left + 275, core - 72, 90, 50, ["action", "one-hot"], GREY)
        drawing.arrow((left + 320, core - 22), (left + 320, core + 12), (left + 250, core + 12))
        drawing.box(left + 265, core + 72, 110, 68, ["heads", "reward, end", _size(count.heads)])
        drawing.arrow((left + 250, core + 38), (left + 320, core + 38), (left + 320, core + 72))
    return drawing.svg()


def _size(count):
    return f"{count / 1e6:.1f} million"


def pipeline() -> str:
    """The way of data: from the emulator to what is done with a trained model."""
    drawing = Drawing(320, "From the emulator to a trained model and its uses")
    top = [
        (["emulator", "ale-py, 104 games"], REAL),
        (["record", "systems.record"], INK),
        (["data set", "main_data.hdf5"], GREY),
        (["four stages", "*_seq_*_train*.py"], CODE),
        (["checkpoint", "best.weights.h5"], GREY),
    ]
    for i, (lines, color) in enumerate(top):
        left = 14 + i * 157
        drawing.box(left, 30, 144, 56, lines, color)
        if i + 1 < len(top):
            drawing.arrow((left + 144, 58), (left + 157, 58))
    uses = [
        ["play.py", "by hand"],
        ["generate_video.py", "mp4, gif"],
        ["evaluate.py", "errors, json"],
        ["plan.py", "by planning"],
        ["train_agent.py", "by an agent"],
    ]
    checkpoint = 14 + 4 * 157 + 72
    drawing.arrow((checkpoint, 86), (checkpoint, 138), (86, 138), (86, 160), color=CODE)
    for i, lines in enumerate(uses):
        left = 14 + i * 157
        if i:
            drawing.arrow((left + 72, 138), (left + 72, 160), color=CODE)
        drawing.box(left, 160, 144, 56, lines, IMAGINED)
    drawing.box(
        14,
        250,
        772,
        50,
        ["the real game: ten frames to begin with, and the truth to compare with"],
        REAL,
    )
    for i in range(len(uses)):
        middle = 14 + i * 157 + 72
        drawing.arrow((middle, 250), (middle, 217), color=REAL, dashed=True)
    return drawing.svg()


DIAGRAMS: dict[str, Callable[[], str]] = {
    "rollouts.svg": rollouts,
    "architecture.svg": architecture,
    "pipeline.svg": pipeline,
}

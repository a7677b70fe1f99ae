"""TensorBoard's logs of a training.

They are written with the tensorboard package alone, because TensorFlow's own writer is not there
with every backend of Keras.
"""

import time
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.image.metadata import create_summary_metadata as image_metadata
from tensorboard.plugins.pr_curve.metadata import create_summary_metadata as pr_metadata
from tensorboard.plugins.scalar.metadata import create_summary_metadata as scalar_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from systems.files import refusals_explained
from utils.watching.video import gif_bytes

PR_THRESHOLDS = 101


class Logs:
    """Writes the logs of one stage.

    Args:
        directory: where they go.

    All methods raise InputError where the system refuses to write.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        with refusals_explained(self._directory):
            self._writer = EventFileWriter(str(directory))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Plots each value under its tag."""
        for tag, value in values.items():
            self._add(step, tag, np.float32(value), scalar_metadata(tag, ""))

    def video(self, step: int, tag: str, frames: np.ndarray, fps: int = 8) -> None:
        """Shows uint8 RGB (time, height, width, 3) as a clip.

        TensorBoard hands an image's bytes to the browser as they are, so that a GIF plays.
        """
        height, width = frames.shape[1:3]
        data = np.array([str(width).encode(), str(height).encode(), gif_bytes(frames, fps)], object)
        self._add(step, tag, data, image_metadata(tag, ""))

    def precision_recall(
        self, step: int, tag: str, positive: np.ndarray, score: np.ndarray
    ) -> None:
        """Plots a precision-recall curve.

        Args:
            step, tag: where it is plotted.
            positive: bool, any shape: what happened.
            score: the predicted probabilities, of the same shape.
        """
        thresholds = np.linspace(0, 1, PR_THRESHOLDS)[:, None]
        positive, called = positive.ravel(), score.ravel() >= thresholds
        true_positives = (called & positive).sum(axis=1)
        false_positives = (called & ~positive).sum(axis=1)
        false_negatives = positive.sum() - true_positives
        true_negatives = (~positive).sum() - false_positives
        precision = true_positives / np.maximum(true_positives + false_positives, 1)
        recall = true_positives / max(positive.sum(), 1)
        rows = [
            true_positives,
            false_positives,
            true_negatives,
            false_negatives,
            precision,
            recall,
        ]
        self._add(step, tag, np.array(rows, np.float32), pr_metadata(tag, "", PR_THRESHOLDS))

    def hyper_parameters(self, values: dict) -> None:
        """Lists the values that the run was started with."""
        shown = {key: "none" if value is None else value for key, value in values.items()}
        self._write(hparams.hparams_pb(shown), step=0)

    def flush(self) -> None:
        """Returns when everything so far is on the disk."""
        with refusals_explained(self._directory):
            self._writer.flush()

    def close(self) -> None:
        """Ends the log."""
        with refusals_explained(self._directory):
            self._writer.close()

    def _add(self, step, tag, value, metadata: SummaryMetadata):
        summary = Summary(
            value=[Summary.Value(tag=tag, tensor=make_tensor_proto(value), metadata=metadata)]
        )
        self._write(summary, step)

    def _write(self, summary, step):
        with refusals_explained(self._directory):
            self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

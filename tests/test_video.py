"""What is written is read back and compared."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from systems.errors import InputError
from utils.video import difference, gif_bytes, side_by_side, to_uint8_rgb, write_video


def clip(colours=200, frames=6):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (colours, 3), dtype=np.uint8)
    return table[rng.integers(0, colours, (frames, 40, 60))]


def read_gif(data):
    image = Image.open(io.BytesIO(data))
    frames = []
    for number in range(image.n_frames):
        image.seek(number)
        frames.append(np.asarray(image.convert("RGB")))
    return np.array(frames)


def test_gif_is_exact():
    frames = clip()
    np.testing.assert_array_equal(read_gif(gif_bytes(frames)), frames)


@pytest.mark.parametrize(("fps", "seconds"), [(10, 1.2), (15, 0.8), (30, 0.4), (60, 0.24)])
def test_gif_lasts_as_long_as_it_should(fps, seconds):
    image = Image.open(io.BytesIO(gif_bytes(clip(frames=12), fps)))
    durations = []
    for number in range(image.n_frames):
        image.seek(number)
        durations.append(image.info["duration"])
    assert sum(durations) == pytest.approx(1000 * seconds)
    assert min(durations) >= 20


def test_mp4_is_h264_with_the_right_colours(tmp_path):
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    frames[:, :, :32] = [220, 30, 30]
    frames[:, :, 32:64] = [30, 220, 30]
    frames[:, :, 64:] = [30, 30, 220]
    path = tmp_path / "clip.mp4"
    write_video(path, frames, fps=10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        read = np.array([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert read.shape == frames.shape
    for column in (16, 48, 80):
        np.testing.assert_allclose(read[:, 32, column], frames[:, 32, column], atol=12)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_side_by_side_enlarges_and_leaves_pixels_as_they_are():
    left, right = clip(frames=2), clip(frames=2)[:, ::-1]
    video = side_by_side({"a": left, "b": right}, ["one\ntwo", "three\nfour"], scale=3)
    assert video.shape[1] % 2 == video.shape[2] % 2 == 0
    enlarged = left.repeat(3, axis=1).repeat(3, axis=2)
    above = (video[0, :20] != 0).any()
    assert above  # the titles
    np.testing.assert_array_equal(video[:, 20:140, :180], enlarged)
    np.testing.assert_array_equal(
        video[:, 20:140, 184:364], right.repeat(3, axis=1).repeat(3, axis=2)
    )
    assert (video[0, 140:] != video[1, 140:]).any()  # the captions


def test_difference_is_grey_where_there_is_none():
    truth = np.array([[[[0, 100, 255]]]], np.uint8)
    np.testing.assert_array_equal(difference(truth, truth), [[[[128, 128, 128]]]])
    np.testing.assert_array_equal(difference(truth, 255 - truth), [[[[255, 155, 0]]]])


def test_grey_and_float_frames_become_rgb():
    np.testing.assert_array_equal(
        to_uint8_rgb(np.array([[[[-3.0], [99.6], [300.0]]]])),
        [[[[0, 0, 0], [100, 100, 100], [255, 255, 255]]]],
    )


@pytest.mark.parametrize("name", ["clip.avi", "clip", "nowhere/clip.mp4", "directory.gif"])
def test_outputs_that_cannot_be_written_are_refused(tmp_path, name):
    (tmp_path / "directory.gif").mkdir()
    with pytest.raises(InputError, match=r"expected (an output|a directory|the name of a file)"):
        write_video(tmp_path / name, clip())

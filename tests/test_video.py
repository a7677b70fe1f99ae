"""What is written is read back and compared."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from systems.errors import InputError
from utils.watching.video import difference, gif_bytes, side_by_side, to_uint8_rgb, write_video

from .test_start import start


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
    panels, captions = {"a": left, "b": right}, ["one\ntwo", "three\nfour"]
    video = np.stack(list(side_by_side(panels, captions, scale=3)))
    assert video.shape[1] % 2 == video.shape[2] % 2 == 0
    enlarged = left.repeat(3, axis=1).repeat(3, axis=2)
    above = (video[0, :20] != 0).any()
    assert above  # the titles
    np.testing.assert_array_equal(video[:, 20:140, :180], enlarged)
    np.testing.assert_array_equal(
        video[:, 20:140, 184:364], right.repeat(3, axis=1).repeat(3, axis=2)
    )
    assert (video[0, 140:] != video[1, 140:]).any()  # the captions


@pytest.mark.parametrize(("rows", "scale"), [(84, 3), (99, 3), (100, 2), (210, 2)])
def test_small_frames_are_enlarged_more(rows, scale):
    panels, captions = {"a": np.zeros((1, rows, 8, 3), np.uint8)}, ["x"]
    chosen, given = (list(side_by_side(panels, captions, s)) for s in (None, scale))
    np.testing.assert_array_equal(chosen, given)


def test_frames_are_composed_one_by_one():
    taken = []

    def frames():
        for number in range(3):
            taken.append(number)
            yield np.full((8, 8, 3), number, np.uint8)

    video = side_by_side({"a": frames()}, ["x"] * 3)
    assert taken == []
    next(video)
    assert taken == [0]
    assert len(list(video)) == 2
    with pytest.raises(ValueError, match="longer"):
        list(side_by_side({"a": frames()}, ["x"] * 4))


# Saves a long clip of full frames as a page does, and prints how much the memory has grown by.
SAVE = """
import resource, sys
import numpy as np
from utils.watching.video import side_by_side, write_video

def frames(shift):
    frame = np.zeros((210, 160, 3), np.uint8)
    for number in range(240):
        frame[:] = 40
        frame[90:120, (number + shift) % 140 :][:, :20] = 200, 30, 30
        yield frame

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

before = peak()
panels = {name: frames(shift) for shift, name in enumerate(("truth", "prediction", "difference"))}
write_video(sys.argv[1], side_by_side(panels, [f"step {i}" for i in range(240)]), 60)
print(peak() - before)
"""


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
def test_a_clip_is_written_without_holding_its_frames(tmp_path, name):
    """Composed, the frames are 340 MB."""
    done = start("-c", SAVE, tmp_path / name)
    assert not done.returncode, done.stderr
    assert int(done.stdout) < 200e6
    with av.open(str(tmp_path / name)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 240


def test_a_gif_shows_still_frames_for_longer():
    frames = np.zeros((6, 20, 20, 3), np.uint8)
    frames[3:5, 4:9, 4:9] = 250
    image = Image.open(io.BytesIO(gif_bytes(frames, 10)))
    durations = []
    for number in range(image.n_frames):
        image.seek(number)
        durations.append(image.info["duration"])
    assert durations == [300, 200, 100]
    image.seek(1)
    np.testing.assert_array_equal(image.convert("RGB"), frames[3])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
@pytest.mark.parametrize(("fps", "frames"), [(0, 1), (61, 1), (10, 0)])
def test_videos_without_frames_or_time_are_refused(tmp_path, name, fps, frames):
    with pytest.raises(ValueError, match="expected"):
        write_video(tmp_path / name, clip(frames=frames), fps)
    assert not list(tmp_path.iterdir())


def test_difference_is_grey_where_there_is_none():
    truth = np.array([[[[0, 100, 255]]]], np.uint8)
    np.testing.assert_array_equal(difference(truth, truth), [[[[128, 128, 128]]]])
    np.testing.assert_array_equal(difference(truth, 255 - truth), [[[[255, 255, 0]]]])
    near = np.array([[[[10, 90, 255]]]], np.uint8)
    np.testing.assert_array_equal(difference(truth, near), [[[[168, 88, 128]]]])


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


def test_help_shows_defaults():
    shown = " ".join(start("generate_video.py", "--help").stdout.split())
    for default in ("100, or as many as --actions lists", "replay", "0", "10"):
        assert f"(default: {default})" in shown


def test_a_video_has_at_most_60_frames_a_second():
    done = start("generate_video.py", "--checkpoint=nowhere", "--video=clip.mp4", "--fps=61")
    assert done.returncode == 2
    assert "at most 60" in done.stderr


@pytest.mark.parametrize("name", ["12:30.mp4", "12:30.gif"])
def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(name, clip())
    assert (tmp_path / name).stat().st_size > 100


def test_a_name_that_no_video_can_have_is_said_before_weights_are_computed(tmp_path):
    # No weights are shipped for this game, which would be said next.
    done = start("generate_video.py", "--pretrained=frogs", f"--video={tmp_path / 'clip.avi'}")
    assert done.returncode == 2
    assert "expected an output ending in .mp4 or .gif" in done.stderr

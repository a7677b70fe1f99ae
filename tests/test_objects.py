"""The controlled object: cut out of frames drawn by hand, and searched for in predictions."""

import numpy as np
import pytest

from systems.controlled_futures import controlled_pixels
from systems.dataset import Dataset
from systems.record import record
from utils.watching import measure
from utils.watching.evaluation import Beside, evaluate
from utils.watching.objects import find_object, search

from .test_evaluation import Oracle, windows_of

SIDE = 40
USUAL = np.full((SIDE, SIDE, 1), 50, np.uint8)


def scene(top=None, left=20, bright=200, car=None):
    """A road, a car that nobody controls, and a chicken of 4 x 3 pixels with a darker beak."""
    frame = USUAL.copy()
    if car is not None:
        frame[18:22, car : car + 6] = 120
    if top is not None:
        frame[top : top + 4, left : left + 3] = bright
        frame[top, left] = bright - 60
    return frame


def cut_out(top, others, car=None):
    futures = np.stack([scene(other, car=car) for other in others])
    return find_object(scene(top, car=car), futures, USUAL)


def test_the_object_is_where_futures_show_what_is_behind_it():
    found = cut_out(10, [20, 30, 30, 2])
    assert (found.top, found.left, found.mask.shape, found.mask.all()) == (10, 20, (4, 3), True)
    assert (found.behind == 50).all()
    # In front of a car, the car is behind it. It is brighter than the road, and so is the chicken.
    found = cut_out(16, [4, 30, 30, 35], car=19)
    assert (found.top, found.left, found.mask.shape) == (16, 20, (4, 3))
    assert found.behind[..., 0].tolist() == [[50] * 3] * 2 + [[120] * 3] * 2
    # Where all futures lead elsewhere together, it is still the recorded one that is found.
    assert cut_out(10, [30, 30]).top == 10


def test_a_window_whose_futures_do_not_show_the_object_alone_is_left_out():
    assert cut_out(10, [10, 10]) is None  # they went the same way
    assert cut_out(10, [11, 11, 12]) is None  # they overlap
    assert cut_out(10, [14, 14]) is None  # they touch
    assert cut_out(None, [30, 30, 20]) is None  # the recorded one has no object
    dot = USUAL.copy()
    dot[9, 9] = 200
    assert find_object(dot, np.stack([USUAL, USUAL]), USUAL) is None  # it is too small


def test_the_usual_frame_is_of_all_play_and_not_of_first_frames_alone():
    class Counting:
        """Many short episodes, whose frames show their number."""

        lengths = np.full(600, 9)

        def palette(self):
            return None

        def read(self, episode, start, count, shape, wanted):
            assert 0 <= episode < 600 and (start, count) == (0, 10)
            assert wanted.min() >= 0 and wanted.max() <= 9
            frames = np.tile(np.reshape(wanted, (-1, 1, 1, 1)), (1, *shape))
            return {"frames": frames.astype(np.uint8)}

    usual = measure._usual_frame(Counting(), (2, 2, 1))
    assert usual.shape == (2, 2, 1) and (np.abs(usual - 4.5) <= 0.5).all()


def levels(*args, **more):
    return scene(*args, **more).astype(np.float32)


@pytest.mark.parametrize(
    ("prediction", "offset"),
    [
        (levels(10), 0),
        (levels(10, bright=150), 0),  # faint
        (levels(12), 2),
        (levels(13, left=16), 5),
        (levels(10, car=20), 0),  # a car that is wrong, and elsewhere
        (levels(), None),
        (levels(10, bright=80), None),  # too faint
        (levels(22), None),  # too far
        (np.full((SIDE, SIDE, 1), 200.0), None),  # everything is as bright as it
        (np.full((SIDE, SIDE, 1), np.nan), None),
    ],
)
def test_the_object_is_searched_for_in_a_prediction(prediction, offset):
    found = cut_out(10, [20, 30, 30, 2])
    assert search(prediction, scene(10), found) == offset


def test_it_is_searched_for_at_the_frames_border_as_well():
    found = cut_out(0, [20, 30])
    assert found.top == 0
    assert search(levels(0), scene(0), found) == 0
    assert search(levels(3), scene(0), found) == 3


def test_what_looks_like_the_object_but_is_real_is_not_taken_for_it():
    # A second chicken stands beside it in every future: it belongs to what is behind.
    def two(*args):
        frame = scene(*args)
        frame[10:14, 23:26] = scene(10)[10:14, 20:23]
        return frame

    found = find_object(two(10), np.stack([two(30), two(25)]), USUAL)
    assert found.mask.shape == (4, 3)
    assert search(two(30).astype(np.float32), two(10), found) is None
    assert search(two(11).astype(np.float32), two(10), found) == 1


def test_it_is_reported_by_horizon():
    frames = np.zeros((6, 4, 16, 16, 1), np.uint8)
    frames[:, :, 0, 0, 0] = np.arange(6)[:, None]
    frames[:, 3, 8:11, 4:7] = 200
    frames[:, 2, 10:13, 4:7] = 200
    futures = np.zeros((2, 16, 16, 1), np.uint8)
    usual = futures[0].astype(float)
    objects = [[find_object(frames[0, 2], futures, usual), None] for _ in range(5)]
    objects.append([find_object(frames[0, 2], futures, usual) for _ in range(2)])
    objects[5][1] = find_object(frames[0, 3], futures, usual)
    oracle = Oracle(frames, np.zeros((16, 16, 1)))
    beside = Beside(objects=objects)
    results, _ = evaluate(oracle, windows_of(frames), 2, (1, 2), beside=beside)
    first, second = results["horizons"].values()
    assert (first["object_windows"], second["object_windows"]) == (6, 1)
    assert first["object_present"] == second["object_present"] == 1
    assert first["object_offset"] == second["object_offset"] == 0
    # The last real frame has none.
    assert first["object_present_repeat_last"] == 0
    assert first["object_offset_repeat_last"] is None
    assert first["intervals"]["object_present"] == [1, 1]


@pytest.mark.thorough
def test_freeways_object_is_the_chicken(tmp_path):
    dataset = Dataset(record("freeway", "persistent", 600, 1, tmp_path, progress=False))
    shape, found = (84, 84, 1), []
    usual = np.median(dataset.read(0, 0, 601, shape)["frames"], axis=0)

    def also(window, truth, futures):
        for i in range(2):
            where = find_object(truth[i], futures[:, i], usual)
            if where:
                found.append((i, where))
                assert search(truth[i].astype(np.float32), truth[i], where) == 0

    starts = [(0, first) for first in range(150, 550, 10)]
    controlled_pixels(dataset, starts, 10, [1, 30], shape, also=also)
    # At first no future has led it elsewhere. Later many have.
    assert sum(i == 0 for i, _ in found) < 2
    assert sum(i == 1 for i, _ in found) >= 8
    for _, where in found:
        assert where.left >= 22 and where.left + where.mask.shape[1] <= 29
        assert 4 <= where.mask.sum() <= 20

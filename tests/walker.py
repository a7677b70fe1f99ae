"""An environment of our own. The processes that record it import this module, and no Keras."""

import gymnasium
import numpy as np


class Walker(gymnasium.Env):
    """A bright square walks over a dark field. All that it does follows from its seed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - as Gymnasium has it

    def __init__(
        self, show="render", actions=None, render_mode=None, reward=1.0, limit=12, level=None
    ):
        if level:
            open(level).close()
        self.render_mode, self._show = render_mode, show
        self._reward, self._limit = reward, limit
        self.action_space = actions or gymnasium.spaces.Discrete(3, start=1)
        image = gymnasium.spaces.Box(0, 255, (24, 20, 3), np.uint8)
        place = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        spaces = {"render": place, "image": image}
        spaces["dict"] = gymnasium.spaces.Dict(place=place, camera=image)
        spaces["unbounded"] = gymnasium.spaces.Box(-np.inf, np.inf, (24, 20, 3), np.float32)
        spaces["two"] = gymnasium.spaces.Dict(left=image, right=image)
        spaces["text"] = gymnasium.spaces.Dict(camera=image, mission=gymnasium.spaces.Text(9))
        self.observation_space = spaces[show]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._x, self._steps = int(self.np_random.integers(20)), 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self._x = (self._x + int(action) - 2 + int(self.np_random.integers(2))) % 20
        self._steps += 1
        return self._observe(), self._reward, self._x == 0, self._steps == self._limit, {}

    def render(self):
        frame = np.zeros((24, 20, 3), np.uint8)
        frame[8:12, self._x] = 250, 40, 10
        return frame

    def _observe(self):
        place = np.array([self._x / 20, 0], np.float32)
        image = self.render()
        return {
            "render": place,
            "image": image,
            "dict": {"place": place, "camera": image},
            "unbounded": image.astype(np.float32) * (self._steps > 0),  # dark at first
            "two": {"left": image, "right": image[:, ::-1]},
            "text": {"camera": image, "mission": "go"},
        }[self._show]


gymnasium.register("Tests/Walker-v0", entry_point=f"{__name__}:Walker")
WALKER = f"{__name__}:Tests/Walker-v0"
gymnasium.register("Tests/OfItsClass-v0", entry_point=Walker)
gymnasium.register("Tests/OfAnObject-v0", entry_point=Walker, kwargs={"limit": np.int64(12)})
OF_ITS_CLASS, OF_AN_OBJECT = (
    f"{__name__}:Tests/{name}-v0" for name in ("OfItsClass", "OfAnObject")
)

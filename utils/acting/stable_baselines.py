"""The compressed game for Stable-Baselines3, which has a vector interface of its own.

    from stable_baselines3 import PPO
    from utils.acting.stable_baselines import make_vec_env

    env = make_vec_env(num_envs=64, checkpoint=checkpoint, observation_type="latent")
    PPO("MlpPolicy", env).learn(100_000)

This project does not require the package, because it installs PyTorch. TensorFlow needs PyTorch's
build for CPUs beside it, because the builds for CUDA install Triton. A process that loads Triton
and TensorFlow crashes, because both register LLVM's options.
"""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from utils.acting.gymnasium_env import CompressedAtariVectorEnv


def make_vec_env(**options) -> VecEnv:
    """Makes a vector of imagined games.

    Args:
        options: those of `CompressedAtariVectorEnv`.
    """
    return _VecEnv(CompressedAtariVectorEnv(**options))


class _VecEnv(VecEnv):
    """Starts ended games anew in the same step, because Stable-Baselines3 expects that."""

    def __init__(self, env):
        self.env = env
        self.render_mode = env.render_mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self):
        # VecEnv.seed() stores one seed per game, but our games share one random generator.
        seed = self._seeds[0]
        self._reset_seeds()
        return self.env.reset(seed=seed)[0]

    def step_async(self, actions):
        self._actions = actions

    def step_wait(self):
        observations, rewards, terminated, truncated, _ = self.env.step(self._actions)
        done = terminated | truncated
        infos = [{} for _ in done]
        if done.any():
            for game in np.flatnonzero(done):
                infos[game] = {
                    "terminal_observation": observations[game],
                    "TimeLimit.truncated": bool(truncated[game] and not terminated[game]),
                }
            observations, _ = self.env.reset(options={"reset_mask": done})
        return observations, rewards.astype(np.float32), done, infos

    def get_images(self):
        return list(self.env.render() or [None] * self.num_envs)

    def close(self):
        self.env.close()

    def get_attr(self, attr_name, indices=None):
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name, value, indices=None):
        raise AttributeError("the games share their attributes: give them to make_vec_env")

    def env_method(self, method_name, *args, indices=None, **options):
        raise AttributeError("the games have no methods of their own")

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False for _ in self._get_indices(indices)]

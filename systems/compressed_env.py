"""Importing this module registers CompressedAtari-v0, see `utils.acting.gymnasium_env`.

docs/tools.md names this import. It is the only module of this package that imports `utils`.
"""

from utils.acting.gymnasium_env import CompressedAtariEnv, CompressedAtariVectorEnv

__all__ = ["CompressedAtariEnv", "CompressedAtariVectorEnv"]

"""Reads data, trains, keeps checkpoints, renders."""

import model  # noqa: F401 - it imports keras quietly, before a module here does it loudly

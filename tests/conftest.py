"""Gives test processes the settings of all scripts, before one of them imports NumPy or Keras."""

from utils.start import prepare

prepare()

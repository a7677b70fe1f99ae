"""Trains a stage: what the eight scripts at the top do."""

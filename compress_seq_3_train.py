"""Compression model, stage 2 of 4: learns 20 steps of the dynamics, from compress_seq_1.

Then it feeds 10 outputs of the LSTM back and decodes 3.
"""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="compress_seq_3",
    variant="compression",
    feed_back=True,
    horizon=10,
    decoded=3,
    restore="compress_seq_1",
    learning_rate=6e-5,
    max_steps=20,
    pretraining_steps=1800,
)

if __name__ == "__main__":
    main(STAGE)

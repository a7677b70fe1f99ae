"""Compression model, stage 3 of 4: learns 40 steps of the dynamics, from compress_seq_3.

Then it feeds 20 outputs of the LSTM back and decodes 5.
"""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="compress_seq_5",
    variant="compression",
    feed_back=True,
    horizon=20,
    decoded=5,
    restore="compress_seq_3",
    learning_rate=6e-5,
    max_steps=50,
    pretraining_steps=1800,
)

if __name__ == "__main__":
    main(STAGE)

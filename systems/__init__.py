"""The emulator and the recording of data sets: everything that touches a real game."""

"""The real game and its data: emulator, policies, recording, data sets, windows, planning."""

"""The network and how it is rolled out over time."""

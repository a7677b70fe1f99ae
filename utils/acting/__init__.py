"""Acts in trained stages: environments, planning, play in the browser."""

"""Looks at trained stages: measurements and videos."""

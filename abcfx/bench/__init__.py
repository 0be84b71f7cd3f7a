"""Measuring abcfx against its rivals: what runs, who it races, how it is timed, and how the result is kept and shown."""

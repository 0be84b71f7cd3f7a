"""Measuring abcfx against its rivals: what runs, who it races, how it is timed, and how it is kept and shown."""

"""`python -m abcfx` and the `abcfx` script."""

from abcfx.cli.front import main

if __name__ == "__main__":
    raise SystemExit(main())

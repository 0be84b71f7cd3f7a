"""Pure tensor mathematics: no fx, no custom ops, no compiled code."""

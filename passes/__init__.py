"""The passes: one file each, one transformation each. Installed as `abcfx.passes`; `abcfx.pipeline` has their order."""

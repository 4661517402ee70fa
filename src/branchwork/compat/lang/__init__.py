"""As `sglang.lang`."""

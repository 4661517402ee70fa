"""As `sglang.lang.backend`."""

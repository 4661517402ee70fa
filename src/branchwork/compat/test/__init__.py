"""As `sglang.test`."""

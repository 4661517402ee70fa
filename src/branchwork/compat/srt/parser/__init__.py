"""As `sglang.srt.parser`."""

"""As `sglang.srt`."""

"""As `sglang.srt.constrained`."""

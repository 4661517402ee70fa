"""As `sglang.global_config`."""

from branchwork.lang.default import GlobalConfig, global_config

__all__ = ["GlobalConfig", "global_config"]

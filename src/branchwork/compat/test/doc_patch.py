"""As `sglang.test.doc_patch`."""

from branchwork.compat.utils import launch_server_cmd

__all__ = ["launch_server_cmd"]

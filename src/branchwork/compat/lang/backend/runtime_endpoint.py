"""As `sglang.lang.backend.runtime_endpoint`."""

from branchwork.lang.api.endpoint import RuntimeEndpoint
from branchwork.lang.default import Runtime

__all__ = ["Runtime", "RuntimeEndpoint"]

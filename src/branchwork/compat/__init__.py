"""The modules that programs written for SGLang's frontend import, under `branchwork.compat`.

`from sglang.lang.ir import REGEX_INT` becomes `from branchwork.compat.lang.ir import REGEX_INT`. Where a program's
imports cannot be changed, `install()` answers for `sglang` itself.
"""

import importlib
import pkgutil
import sys

import branchwork


def install() -> None:
    """Let `import sglang` and its sub-modules give branchwork. Raises ImportError when SGLang is already imported."""
    if "sglang" in sys.modules and sys.modules["sglang"] is not branchwork:
        raise ImportError("sglang is already imported; call install() before")
    sys.modules["sglang"] = branchwork
    for found in pkgutil.walk_packages(__path__, f"{__name__}."):
        name = "sglang" + found.name.removeprefix(__name__)
        sys.modules[name] = importlib.import_module(found.name)

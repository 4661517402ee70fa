"""As `sglang.lang.interpreter`."""

from branchwork.lang.branch import Branch as StreamExecutor
from branchwork.lang.group import Group as ProgramStateGroup
from branchwork.lang.state import State as ProgramState

__all__ = ["ProgramState", "ProgramStateGroup", "StreamExecutor"]

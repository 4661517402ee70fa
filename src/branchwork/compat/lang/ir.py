"""As `sglang.lang.ir`: the patterns of its dtypes, and its expressions under its names."""

from branchwork.lang.function import Function as SglFunction
from branchwork.lang.holes import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_STR
from branchwork.lang.ir import Const as SglConstantText
from branchwork.lang.ir import Expr as SglExpr
from branchwork.lang.ir import Gen as SglGen
from branchwork.lang.ir import Media as SglImage
from branchwork.lang.ir import Media as SglVideo
from branchwork.lang.ir import Reasoning as SglSeparateReasoning
from branchwork.lang.ir import Select as SglSelect
from branchwork.lang.ir import Seq as SglExprList

__all__ = [
    "REGEX_BOOL",
    "REGEX_FLOAT",
    "REGEX_INT",
    "REGEX_STR",
    "SglConstantText",
    "SglExpr",
    "SglExprList",
    "SglFunction",
    "SglGen",
    "SglImage",
    "SglSelect",
    "SglSeparateReasoning",
    "SglVideo",
]

"""JSON Schema to the intermediate representation of the machine."""

from branchwork.runtime.grammar.json_schema.compiler import compile_schema

__all__ = ["compile_schema"]

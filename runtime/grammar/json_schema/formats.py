"""The formats of JSON Schema as languages of strings."""

from branchwork.runtime.grammar.json_schema.language import Language

FORMATS: dict[str, Language] = {}

"""Command-line flags, environment variables and documentation from a config dataclass: one definition for all."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin

from branchwork.runtime.wire.errors import ConfigError

Config = TypeVar("Config")


def flag(spec: Field[Any]) -> str:
    """`--max-len` for the field max_len."""
    return "--" + spec.name.replace("_", "-")


def variable(spec: Field[Any]) -> str:
    """`BRANCHWORK_MAX_LEN` for the field max_len."""
    return "BRANCHWORK_" + spec.name.upper()


def describe(spec: Field[Any]) -> str:
    """What the option means, its unit and its default, as one line."""
    unit = f" [{spec.metadata['unit']}]" if spec.metadata["unit"] else ""
    default: Any = spec.default
    if spec.type is bool:
        default = "on" if default else "off"
    elif default == "":
        default = "none"
    return f"{spec.metadata['help']}{unit} (default: {default})"


def parse_value(spec: Field[Any], text: str) -> Any:
    """A value of the field's type from text. Raises ConfigError where it is not of that type."""
    kind = spec.type
    if get_origin(kind) is Literal or kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ConfigError(f"{flag(spec)} {text}: must be on or off")
        return text.lower() in ("true", "1", "yes", "on")
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        name = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{flag(spec)} {text}: must be {name}") from None


def add_options(
    parser: argparse.ArgumentParser, *classes: type[Any], without: tuple[str, ...] = ()
) -> None:
    """Give `parser` a flag for each field of the config dataclasses, grouped as their metadata says.

    Fields named in `without` (secrets) get none: a process list would show them. A field that two classes
    have (a limit that gateway and runtime both hold) is one flag for both.
    """
    groups: dict[str, Any] = {}
    specs = {spec.name: spec for cls in reversed(classes) for spec in fields(cls)}
    for spec in (spec for name, spec in specs.items() if name not in without):
        name = spec.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        group = groups[name]
        choices = get_args(spec.type) if get_origin(spec.type) is Literal else None
        metavar = None if choices else _metavar(spec)
        help_text = describe(spec).replace("%", "%%")
        group.add_argument(
            flag(spec),
            dest=spec.name,
            default=None,
            choices=choices,
            metavar=metavar,
            help=help_text,
        )


def config_from(cls: type[Config], arguments: Mapping[str, Any]) -> Config:
    """The config that flags ask for; what they leave open comes from the environment, then from the defaults."""
    values = {}
    for spec in fields(cls):  # type: ignore[arg-type]
        text = arguments.get(spec.name)
        if text is None:
            text = os.environ.get(variable(spec))
        if text is not None:
            values[spec.name] = parse_value(spec, text)
    return cls(**values)


def table(cls: type[Any]) -> str:
    """The options as a Markdown table, for the documentation."""
    lines = ["| option | default | unit | meaning |", "|---|---|---|---|"]
    for spec in fields(cls):
        choices = " \\| ".join(get_args(spec.type)) if get_origin(spec.type) is Literal else ""
        meaning = spec.metadata["help"] + (f" ({choices})" if choices else "")
        default = f"`{spec.default}`" if spec.default != "" else ""
        lines.append(f"| `{flag(spec)}` | {default} | {spec.metadata['unit']} | {meaning} |")
    return "\n".join(lines)


def _metavar(spec: Field[Any]) -> str:
    return {int: "N", float: "X", bool: "on|off"}.get(spec.type, "TEXT")  # type: ignore[arg-type]

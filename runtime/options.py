"""Command-line flags, environment variables and documentation from a config dataclass: one definition for all."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin

from branchwork.runtime.wire.config import adapter_pairs, flag_of, is_repeated
from branchwork.runtime.wire.errors import ConfigError

Config = TypeVar("Config")


def variable(spec: Field[Any]) -> str:
    """`BRANCHWORK_MAX_LEN` for the field max_len."""
    return "BRANCHWORK_" + flag_of(spec)[2:].replace("-", "_").upper()


def describe(spec: Field[Any]) -> str:
    """What the option means, its unit and its default, as one line."""
    unit = f" [{spec.metadata['unit']}]" if spec.metadata["unit"] else ""
    default: Any = spec.default
    if spec.type is bool:
        default = "on" if default else "off"
    elif default in ("", ()):
        default = "none"
    return f"{spec.metadata['help']}{unit} (default: {default})"


def parse_value(spec: Field[Any], text: str | list[str]) -> Any:
    """A value of the field's type from text. Raises ConfigError where it is not of that type.

    Of a field that takes several, the texts of its flags; or one text, with commas.
    """
    kind = spec.type
    if is_repeated(spec):
        texts = text.split(",") if isinstance(text, str) else text
        return adapter_pairs([each.strip() for each in texts if each.strip()])
    assert isinstance(text, str)
    if get_origin(kind) is Literal or kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ConfigError(f"{flag_of(spec)} {text}: must be on or off")
        return text.lower() in ("true", "1", "yes", "on")
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        name = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{flag_of(spec)} {text}: must be {name}") from None


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
        alone: dict[str, Any] = {"nargs": "?", "const": "on"} if spec.type is bool else {}
        group.add_argument(
            flag_of(spec),
            dest=spec.name,
            action="append" if is_repeated(spec) else "store",
            default=None,
            choices=choices,
            metavar=metavar,
            help=help_text,
            **alone,
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
        default = f"`{spec.default}`" if spec.default not in ("", ()) else ""
        lines.append(f"| `{flag_of(spec)}` | {default} | {spec.metadata['unit']} | {meaning} |")
    return "\n".join(lines)


def _metavar(spec: Field[Any]) -> str:
    if is_repeated(spec):
        return "NAME=FOLDER"
    return {int: "N", float: "X", bool: "on|off"}.get(spec.type, "TEXT")  # type: ignore[arg-type]

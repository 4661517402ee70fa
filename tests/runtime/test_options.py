import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest

from branchwork.runtime.options import add_options, config_from, table
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.wire.config import RuntimeConfig, check_options, option
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.launcher import configure


@dataclass(frozen=True, slots=True)
class Small:
    max_len: int = option(8, "longest", "model", "tokens", 1, 10)
    cache: bool = option(True, "keep", "memory")

    def __post_init__(self) -> None:
        check_options(self)


def parse(*flags: str) -> dict[str, str]:
    parser = argparse.ArgumentParser()
    add_options(parser, Small)
    return vars(parser.parse_args(flags))


def test_a_flag_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BRANCHWORK_MAX_LEN", "5")
    monkeypatch.setenv("BRANCHWORK_CACHE", "off")
    assert config_from(Small, parse("--max-len", "7")) == Small(7, False)
    assert config_from(Small, parse()) == Small(5, False)
    monkeypatch.delenv("BRANCHWORK_MAX_LEN")
    assert config_from(Small, parse("--cache", "on")) == Small(8, True)


def test_a_switch_may_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRANCHWORK_CACHE", "off")
    assert config_from(Small, parse("--cache")) == Small(8, True)
    assert config_from(Small, parse("--cache", "--max-len", "7")) == Small(7, True)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--max-len", "11"), "--max-len 11: must be between 1 and 10 tokens"),
        (("--max-len", "x"), "--max-len x: must be a whole number"),
        (("--cache", "maybe"), "--cache maybe: must be on or off"),
    ],
)
def test_a_value_out_of_bounds_is_one_sentence(flags: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from(Small, parse(*flags))
    assert str(caught.value) == sentence


def test_one_flag_sets_what_gateway_and_runtime_both_limit() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, ServerConfig, RuntimeConfig, without=("api_key", "admin_key"))
    arguments = vars(parser.parse_args(["--max-stops", "3"]))
    assert config_from(ServerConfig, arguments).max_stops == 3
    assert config_from(RuntimeConfig, arguments).max_stops == 3
    assert "api_key" not in arguments


def test_the_table_has_a_line_for_every_option() -> None:
    lines = table(Small).splitlines()
    assert lines[2] == "| `--max-len` | `8` | tokens | longest |"
    assert len(lines) == 4


def adapters(*flags: str) -> tuple[tuple[str, str], ...]:
    parser = argparse.ArgumentParser()
    add_options(parser, RuntimeConfig)
    return config_from(RuntimeConfig, vars(parser.parse_args(flags))).adapters


def test_each_adapter_has_a_flag_of_its_own_and_the_variable_has_them_with_commas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BRANCHWORK_ADAPTER", "one=/a/b=c, two=d,")
    assert adapters() == (("one", "/a/b=c"), ("two", "d"))
    assert adapters("--adapter", "three=x", "--adapter", "four=y,z") == (
        ("three", "x"),
        ("four", "y,z"),
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("poet",), "--adapter poet: must be NAME=FOLDER"),
        (("poet=",), "--adapter poet: names no folder"),
        (("poet=a", "poet=b"), "--adapter poet: stands there twice"),
        (("sprout=a",), "--adapter sprout: the model itself has this name"),
        (("a b=c",), "--adapter 'a b': a name has 1 to 128 of A-Z a-z 0-9 . _ - : / @ +, a letter or digit first"),
        (("=c",), "--adapter '': a name has 1 to 128 of A-Z a-z 0-9 . _ - : / @ +, a letter or digit first"),
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_called_so_is_one_sentence(
    flags: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        adapters(*[part for flag in flags for part in ("--adapter", flag)])
    assert str(caught.value) == sentence


def test_a_model_in_a_folder_has_the_folders_name() -> None:
    with pytest.raises(ConfigError, match="--adapter tiny: the model itself has this name"):
        RuntimeConfig(model="/models/tiny/", adapters=(("tiny", "x"),))


@pytest.mark.parametrize(
    "given",
    [{"a": Path("x"), "b": "y"}, [("a", "x"), ["b", "y"]], ["a=x", "b=y"], (("a", "x"), ("b", "y"))],
)  # fmt: skip
def test_a_program_gives_adapters_as_a_dict_or_pairs(given: object) -> None:
    config = configure(RuntimeConfig(), {"adapters": given})
    assert config.adapters == (("a", "x"), ("b", "y"))


@pytest.mark.parametrize("given", ["a=x", 5, None, [5], [("a", 5)], {"a": None}, {5: "x"}])
def test_what_is_no_adapter_is_refused_with_the_option(given: object) -> None:
    with pytest.raises(ConfigError, match="--adapter "):
        configure(RuntimeConfig(), {"adapters": given})

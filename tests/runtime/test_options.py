import argparse
from dataclasses import dataclass

import pytest

from branchwork.runtime.options import add_options, config_from, table
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.wire.config import RuntimeConfig, check_options, option
from branchwork.runtime.wire.errors import ConfigError


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

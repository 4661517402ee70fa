"""The API reference holds every public name, is current, and its examples run."""

import doctest
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.fake_api import FakeApi

import branchwork as bw
from branchwork import testing
from branchwork.runtime.wire.launcher import launch

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_api = load()
NAMES: dict[str, Any] = dict(make_api.documented())


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the examples find: the page's setting, a file to write, a server, mock runtimes, and a missing package."""
    litellm = ModuleType("litellm")
    litellm.completion = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litellm", litellm)
    # A process without a model starts in a third of the time.
    module = "branchwork.runtime.mock_service"
    monkeypatch.setitem(launch.__kwdefaults__, "module", module)
    before = bw.global_config.default_backend
    api = FakeApi(lambda path, body: {"model_path": "tiny"})
    found: dict[str, Any] = {"path": tmp_path / "recording", "url": api.url, "__name__": "examples"}
    exec(compile(make_api.SETTING, "docs/api.md", "exec"), found)
    yield found
    bw.set_default_backend(before)
    api.close()


def test_every_public_name_is_in_the_reference() -> None:
    listed = [name for names in make_api.SECTIONS.values() for name in names]
    assert sorted(listed) == sorted({*bw.__all__, *testing.__all__, "Group"})


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented_with_an_example(name: str) -> None:
    words, example = make_api.divided(make_api.docstring(NAMES[name]))
    assert words
    assert example, f"{name} has no example"


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_each_name_runs(name: str, surroundings: dict[str, Any]) -> None:
    test = make_api.examples(name, NAMES[name])
    test.globs = surroundings
    said: list[str] = []
    failed, _ = doctest.DocTestRunner().run(test, out=said.append)
    assert not failed, "".join(said)


def test_the_reference_is_current() -> None:
    assert make_api.PATH.read_text(encoding="utf-8") == make_api.reference(), (
        "run: python docs/make_api.py"
    )

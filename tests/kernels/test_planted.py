"""The gates notice every flipped detail."""

import re

import pytest
from tests.kernels.cases import CASES
from tests.kernels.planted import BUGS, ROOT, Bug, is_caught
from tests.runtime.models.device_programs import PROGRAMS


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_has_its_place_and_cases_to_notice_it(bug: Bug) -> None:
    assert bug.right in (ROOT / bug.path).read_text()
    tests = re.findall(r"^def (test_\w+)", bug.tests_of_the_cpu.read_text(), re.MULTILINE)
    of_kernels = tests if bug.is_of_the_cpu else list(map(str, CASES))
    noticing = map(str, PROGRAMS) if bug.is_of_the_runner else of_kernels
    assert any(name.startswith(bug.cases) for name in noticing)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    assert is_caught(bug)

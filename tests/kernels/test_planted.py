"""The gates notice every flipped detail."""

import pytest
from tests.kernels.cases import CASES
from tests.kernels.planted import BUGS, ROOT, Bug, is_caught


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_has_its_place_and_cases_to_notice_it(bug: Bug) -> None:
    source = (ROOT / "kernels" / "triton" / f"{bug.file}.py").read_text()
    assert bug.right in source
    assert any(str(case).startswith(bug.cases) for case in CASES)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    assert is_caught(bug)

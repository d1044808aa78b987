import pytest
from fuzz import run_case
from fuzz_targets import make_targets

CASES = 12  # of each kind of file; `python tests/harness/fuzz.py` runs as many as wanted
TARGETS = make_targets()


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_or_read_as_they_were(name):
    results = [run_case(name, TARGETS[name], seed) for seed in range(CASES)]
    assert "refused" in results

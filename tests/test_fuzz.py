import pytest
from fuzz import make_targets, run_case

CASES = 28  # of each of eleven kinds of file; `python tests/fuzz.py` runs as many as wanted
TARGETS = make_targets()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")  # readers warn of what they then refuse
def test_damaged_files_are_refused_or_read_as_they_were(name):
    results = [run_case(name, TARGETS[name], seed) for seed in range(CASES)]
    assert "refused" in results

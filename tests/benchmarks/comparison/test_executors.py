"""What a cell may ask of a Ray cluster; running one is in test_cluster.py."""

import pytest

from benchmarks.comparison.executors import Ray

SMALL, LARGE, WITH_GPU = {"CPU": 4.0}, {"CPU": 16.0}, {"CPU": 2.0, "GPU": 2.0}


@pytest.mark.parametrize("asked", [{"cpus": 16}, {"cpus": 0.5, "gpus": 2}, {"cpus": 0}])
def test_what_one_machine_has_may_be_asked_for(asked):
    Ray(**asked)._check([SMALL, LARGE, WITH_GPU])


@pytest.mark.parametrize(
    ("asked", "machines", "complaint"),
    [
        ({"cpus": 17}, [LARGE, LARGE], "17 CPU and the largest machine of the Ray cluster has 16; .*--cpus-per-cell"),
        ({"gpus": 3}, [WITH_GPU, WITH_GPU], "3 GPU and the largest .* has 2; .*--gpus-per-cell"),
        ({"gpus": 0.5}, [SMALL], "0.5 GPU and the largest .* has 0;"),
        ({}, [], "1 CPU and the largest .* has 0;"),
        ({"cpus": 16, "gpus": 1}, [LARGE, WITH_GPU], "16 CPU and 1 GPU, and no machine of the Ray cluster has both;"),
    ],
)
def test_what_machines_have_only_together_is_refused(asked, machines, complaint):
    with pytest.raises(ValueError, match=complaint):
        Ray(**asked)._check(machines)

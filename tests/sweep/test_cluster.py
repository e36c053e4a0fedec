"""What a trial gets of the machines of a cluster."""

import os
import signal
import subprocess
import sys

import pytest

from recbole_gen.errors import UserError
from recbole_gen.sweep import cluster


class FakeRay:
    """A cluster with these machines."""

    def __init__(self, *nodes):
        self._nodes = [{"Resources": node, "Alive": True} for node in nodes]

    def nodes(self):
        return self._nodes

    def cluster_resources(self):
        return {"GPU": sum(node["Resources"].get("GPU", 0) for node in self._nodes)}


@pytest.mark.parametrize("asked, wanted", [(None, 1), (0, 0), (0.25, 0.25), (2, 2)])
def test_trials_get_a_gpu_where_there_is_one(asked, wanted):
    with_gpus = FakeRay({"CPU": 4}, {"CPU": 4, "GPU": 2})
    assert cluster.Resources("trial", 2, asked).trial_resources(with_gpus) == {"cpu": 2, "gpu": wanted}
    assert cluster.Resources("trial", 2).trial_resources(FakeRay({"CPU": 4})) == {"cpu": 2, "gpu": 0}


def test_more_than_any_machine_has_is_refused():
    with pytest.raises(UserError, match="--cpus_per_trial is 6, and no machine of the cluster has more than 4"):
        cluster.Resources("trial", 6).trial_resources(FakeRay({"CPU": 4}, {"CPU": 4}))
    with pytest.raises(UserError, match=r"--gpus_per_trial is 0\.5, and no machine of the cluster has more than 0"):
        cluster.Resources("trial", 1, 0.5).trial_resources(FakeRay({"CPU": 4}))


@pytest.mark.xdist_group("ray")
def test_the_end_that_a_batch_system_sends_is_ctrl_c(no_ray, default_sigint):
    """Also in what a shell has started in the background, where Ctrl-C is ignored; Ray alone would abort."""
    with pytest.raises(KeyboardInterrupt), cluster.connected_ray() as ray:
        assert ray.is_initialized()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGTERM)
    assert not ray.is_initialized()


def test_what_trials_have_shared_is_removed_without_loading_torch(tmp_path):
    """By Ray in a process that may be new: it loads the module of the function that it is to run."""
    for name in ("sweep-head", "sweep-other", "another"):
        (tmp_path / name).mkdir()
    cluster.remove_folders(tmp_path / "sweep-")
    assert [path.name for path in tmp_path.iterdir()] == ["another"]
    module = cluster.remove_folders.__module__
    text = f"import sys, {module}; print({{'torch', 'recbole', 'pandas'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

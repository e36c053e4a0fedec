"""What all trials of a sweep would say is said once."""

from pathlib import Path

import pytest

from recbole_gen import quick_start
from recbole_gen.sweep.tune import failure_reasons


def test_one_reason_of_several_trials_is_one_line():
    reasons = ("topk [41] needs more than the 40 items there are", "its process died", None)
    trials = [{"number": number, **({"reason": reasons[place]} if reasons[place] else {})}
              for number, place in enumerate((0, 0, 1, 0, 2))]  # fmt: skip
    assert failure_reasons(trials).splitlines() == [
        f"trials 0, 1, 3: {reasons[0]}", "trial 2: its process died", "trial 4: not validated",
    ]  # fmt: skip


@pytest.mark.parametrize(("quiet", "told"), [(True, 1), ("errors", 0)])
def test_a_warning_goes_to_the_log_and_is_told_by_the_first_trial_alone(settings, tmp_path, capsys, quiet, told):
    folder = tmp_path / "run"
    values = settings("SASRec", topk=[5, 40], valid_metric="NDCG@5", epochs=1)
    quick_start.run(config_dict=values, run_dir=folder, quiet=quiet, test=False)
    assert capsys.readouterr().err.count("Hit and Recall say nothing there") == told
    assert Path(folder / "run.log").read_text().count("Hit and Recall say nothing there") == 1

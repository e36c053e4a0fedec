"""What importing recbole_gen and RecBole does, in processes of their own: pytest has imported both long since."""

import json
import subprocess
import sys
import textwrap

import pytest

FOREIGN = ["torch", "numpy", "pandas", "scipy", "ray", "pyarrow", "recbole"]
SHIMMED = """
import torch
from recbole.config import Config
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.model.layers import FeedForward
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
assert Dataset._load_feat.__module__ == "recbole_gen.compat.atomic_files"
assert Dataset._fill_nan.__module__ == "recbole_gen.compat.stack"
assert Dataset.get_preload_weight.__module__ == "recbole_gen.compat.bugs"
assert Config._init_device.__module__ == "recbole_gen.compat.bugs"
assert FeedForward.gelu.__module__ == SASRec.forward.__module__ == "recbole_gen.compat.kernels"
assert not torch.is_anomaly_enabled()
"""


def python(code, *options, **environment):
    """What a new interpreter prints; fails with its traceback."""
    done = subprocess.run([sys.executable, *options, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Imports what RecBole needs of others, which takes most of the time, once; then for each line that it reads, forks a
# process, which runs it as a program and knows neither RecBole nor us yet.
FORKING = """
import json, os, sys, tempfile, traceback
import numpy, pandas, ray.tune, scipy.stats, sklearn.metrics, torch.utils.tensorboard
for line in sys.stdin:
    assert not any(name.split(".")[0] in ("recbole", "recbole_gen") for name in sys.modules)
    with tempfile.TemporaryFile("w+") as said:
        if (child := os.fork()) == 0:
            os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
            code = 1
            try:
                exec(compile(json.loads(line), "<string>", "exec"), {"__name__": "__main__"})
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        print(json.dumps([code, said.read()]), flush=True)
"""


@pytest.fixture(scope="module")
def forked():
    """forked(code): as `python(code)`, in a process that has imported torch and its like, but nothing of RecBole."""
    command = [sys.executable, "-c", FORKING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def run(code):
            print(json.dumps(textwrap.dedent(code)), file=server.stdin, flush=True)
            status, said = json.loads(server.stdout.readline())
            assert status == 0, said
            return said

        yield run
        server.stdin.close()
    assert server.returncode == 0


def test_a_forked_process_knows_no_recbole_and_fails_with_its_traceback(forked):
    forked("""
        import sys
        assert "torch" in sys.modules and not {"recbole", "recbole_gen"} & set(sys.modules)
        assert "recbole_gen.compat" not in sys.modules and __name__ == "__main__"
    """)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        forked("import recbole_gen; 1 / 0")
    forked("import sys; assert 'recbole_gen' not in sys.modules")  # nor what another has imported


def test_importing_the_package_imports_nothing_heavy():
    python(f"""
        import sys, time
        before = time.process_time()
        import recbole_gen
        spent = time.process_time() - before
        assert not set({FOREIGN}) & set(sys.modules), set({FOREIGN}) & set(sys.modules)
        assert spent < 0.2, spent  # 0.03 on a quiet machine
    """)


@pytest.mark.parametrize(
    "first",
    [
        "import recbole_gen",
        "import recbole, recbole_gen",
        "from recbole.data.dataset import Dataset; import recbole_gen",
        "import recbole.model.sequential_recommender, recbole.quick_start, recbole_gen",
        "import recbole_gen.quick_start",
        "import recbole_gen.compat",
    ],
)
def test_recbole_is_shimmed_in_whatever_order(forked, first):
    forked(first + "\n" + SHIMMED)


def test_scikit_learn_is_imported_by_the_metrics_that_call_it():
    python("""
        import sys
        import recbole_gen.quick_start
        assert not {"sklearn", "scipy.stats", "joblib"} & sys.modules.keys()
        from recbole.evaluator import metrics
        assert metrics.mean_absolute_error([1, 2], [1, 4]) == 1 and metrics.mean_squared_error([1, 2], [1, 4]) == 2
        import sklearn.metrics
        assert metrics.sk_auc([0, 1], [0, 1]) == sklearn.metrics.auc([0, 1], [0, 1]) == 0.5
        import importlib
        importlib.reload(metrics)
        assert metrics.mean_absolute_error([1, 2], [1, 4]) == 1
    """)


def test_a_module_is_shimmed_when_it_is_handed_out_and_only_once(forked):
    forked("""
        import importlib, sys
        import recbole_gen
        from recbole_gen import compat
        import recbole.data.dataset.dataset as module
        assert "recbole.trainer.trainer" not in sys.modules
        convert = module.Dataset._dataframe_to_interaction
        compat.apply()
        assert module.Dataset._dataframe_to_interaction is convert
        assert sum(type(finder).__name__ == "_ShimFinder" for finder in sys.meta_path) == 1
        assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
        importlib.reload(module)
        assert module.Dataset._fill_nan.__module__ == "recbole_gen.compat.stack"
    """)


def test_looking_for_recbole_imports_nothing():
    python("""
        import importlib.util, sys
        import recbole_gen
        spec = importlib.util.find_spec("recbole")
        assert spec.origin.endswith("__init__.py") and spec.loader.get_filename("recbole") == spec.origin
        assert "recbole" not in sys.modules and "numpy" not in sys.modules
    """)


def test_anomaly_mode_that_the_user_wants_stays(forked):
    forked("""
        import recbole_gen, torch
        torch.autograd.set_detect_anomaly(True)
        import recbole.model.sequential_recommender
        assert torch.is_anomaly_enabled()
    """)


def test_a_module_whose_shim_fails_is_not_imported(forked):
    forked("""
        import sys
        import recbole_gen
        from recbole_gen.compat import stack
        real = stack.fill_missing_values_by_assignment
        def broken(module):
            raise RuntimeError("no such method")
        stack.fill_missing_values_by_assignment = broken
        try:
            from recbole.data.dataset import Dataset
        except RuntimeError as error:
            assert str(error) == "no such method"
        else:
            raise AssertionError
        assert "recbole.data.dataset.dataset" not in sys.modules
        stack.fill_missing_values_by_assignment = real
        from recbole.data.dataset import Dataset
        assert Dataset._fill_nan.__module__ == "recbole_gen.compat.stack"
    """)


def test_many_threads_see_shimmed_modules_only(forked):
    forked("""
        import sys, threading
        import recbole_gen
        from recbole_gen import compat
        sys.setswitchinterval(1e-5)
        seen, start = [], threading.Barrier(6)
        def work(name):
            start.wait()
            __import__(name)
            seen.append(compat._MARK in vars(sys.modules[name]))
        names = ["recbole.data.dataset.dataset", "recbole.trainer.trainer", "recbole.model.layers"] * 2
        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert seen == [True] * 6, seen
    """)


WITHOUT_RECBOLE = """
    import importlib.machinery, importlib.metadata, sys
    real = importlib.machinery.PathFinder.find_spec
    importlib.machinery.PathFinder.find_spec = classmethod(
        lambda cls, name, *rest: None if name.split(".")[0] == "recbole" else real(name, *rest))
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)
    importlib.metadata.version = version
    import recbole_gen
"""


@pytest.mark.parametrize("name", ["recbole", "recbole.config", "recbole_gen.config.config"])
def test_without_recbole_its_first_import_says_how_to_install_it(forked, name):
    forked(f"""{WITHOUT_RECBOLE}
    from recbole_gen.compat import RecBoleMissing
    try:
        import {name}
    except RecBoleMissing as error:
        assert "pip install --no-deps recbole==1.2.1" in str(error)
        assert isinstance(error, ImportError)
    else:
        raise AssertionError
    """)


def test_without_recbole_a_look_for_it_finds_nothing_and_the_command_line_prints_one_line(forked):
    said = forked(f"""{WITHOUT_RECBOLE}
    import contextlib, importlib.util, io
    assert importlib.util.find_spec("recbole") is None
    from recbole_gen import cli
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert cli.main(["--model=SASRec", "--dataset=ml-100k"]) == 2
    print(errors.getvalue(), end="")
    """)
    assert said.startswith("error: recbole_gen needs RecBole") and said.count("\n") == 1


def test_another_version_of_recbole_is_refused(forked):
    forked("""
        import importlib.metadata
        import recbole_gen
        importlib.metadata.version = lambda name: "1.1.1"
        try:
            import recbole
        except ImportError as error:
            assert "needs RecBole 1.2.1, found 1.1.1" in str(error)
        else:
            raise AssertionError
    """)


def test_a_spawned_process_gets_a_shimmed_recbole(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing
        import recbole_gen
        if __name__ != "__main__":  # in the spawned process
            from recbole.data.dataset import Dataset

        def work(queue):
            queue.put(Dataset._load_feat.__module__)

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            queue = context.SimpleQueue()
            process = context.Process(target=work, args=(queue,))
            process.start()
            process.join()
            assert queue.get() == "recbole_gen.compat.atomic_files"
    """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

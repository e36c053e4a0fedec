#!/bin/sh
# RecBole 1.2.1's own tests on the stack that is installed, with `import recbole_gen` and nothing else added to them:
#
#   benchmarks/recbole_suite.sh             clones RecBole at its tag v1.2.1 into a temporary folder
#   benchmarks/recbole_suite.sh FOLDER      a checkout that is there (PyPI's archive of 1.2.1 has no tests in it)
#
# PYTHON=.venv/bin/python chooses the interpreter, and PYTEST_ADDOPTS="-n 2" what else pytest is told. Ends with 1 if a
# test fails. RecBole's tests write log/ and saved/ into the folder that they run in: a copy, which is deleted.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
python=$(command -v "${PYTHON:-$here/.venv/bin/python}" || command -v python3)
case $python in /*) ;; *) python=$PWD/$python ;; esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ $# -gt 0 ]; then
    cp -R "$1" "$folder/RecBole"
else
    git clone --quiet --depth 1 --branch v1.2.1 https://github.com/RUCAIBox/RecBole.git "$folder/RecBole"
fi
cd "$folder/RecBole"
grep -q '"1\.2\.1"' recbole/__init__.py || { echo "this is not RecBole 1.2.1" >&2; exit 2; }
for part in metrics evaluation_setting config data model; do
    [ -d "tests/$part" ] || { echo "there is no tests/$part in it" >&2; exit 2; }
done
export PYTHONPATH="$here" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
failed=0
"$python" -m pytest -q -p recbole_gen -p no:cacheprovider tests/metrics tests/evaluation_setting tests/config tests/data || failed=1
"$python" -m pytest -q -p recbole_gen -p no:cacheprovider tests/model/test_model_auto.py -k TestSequentialRecommender || failed=1
exit $failed

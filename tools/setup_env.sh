#!/usr/bin/env bash
# Create .venv with everything the demo and the tests need. Does nothing when it is already complete.
#
# mmcv is compiled from source (about 8 minutes on 2 cores); the wheel goes to the user's cache directory, keyed by
# mmcv, torch and Python version, so that it is built once per machine.
#
#   PYTHON=python3.11 tools/setup_env.sh        choose the interpreter (3.10 to 3.12)
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0
MMCV=2.1.0
VENV=.venv
stamp="$VENV/ready-$(cat requirements/*.txt setup.py tools/setup_env.sh | cksum | cut -d' ' -f1)"
[ -e "$stamp" ] && exit 0

say() { printf '\n== %s\n' "$1"; }

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.10}; do
  if supported "$candidate"; then python=$candidate; break; fi
done
[ -n "${python:-}" ] || { echo "setup: need Python 3.10 to 3.12; set PYTHON=/path/to/python3.11" >&2; exit 1; }
command -v "${CXX:-c++}" >/dev/null || {
  echo "setup: mmcv is compiled here and needs a C++ compiler (Debian: apt-get install g++)" >&2; exit 1; }

say "virtual environment: $VENV ($("$python" --version))"
[ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }
pip --upgrade pip 'setuptools<82' wheel ninja psutil

say "torch $TORCH"
pip "torch==$TORCH" 'numpy>=1.26'

abi=$("$VENV/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
torch_version=$("$VENV/bin/python" -c 'import torch; print(torch.__version__)')
cache="${XDG_CACHE_HOME:-$HOME/.cache}/erq_mm/wheels/mmcv-$MMCV-torch-$torch_version-$abi-$(uname -m)"
if ! ls "$cache"/mmcv-*.whl >/dev/null 2>&1; then
  say "building mmcv $MMCV for torch $torch_version (about 8 minutes on 2 cores, once per machine)"
  mkdir -p "$cache"
  building=$(mktemp -d "$cache/building.XXXXXX")
  trap 'rm -rf "$building"' EXIT
  log="$cache/build.log"
  cores=$(env -u OMP_NUM_THREADS nproc)  # else nproc says what OpenMP was allowed
  MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$cores} "$VENV/bin/python" -m pip --disable-pip-version-check wheel --no-deps \
    --no-build-isolation --no-binary mmcv --wheel-dir "$building" "mmcv==$MMCV" >"$log" 2>&1 || {
    tail -n 40 "$log" >&2; echo "setup: building mmcv failed; the whole log is $log" >&2; exit 1; }
  mv "$building"/mmcv-*.whl "$cache"/    # a rename: an interrupted build leaves no half wheel behind
fi
say "mmcv $MMCV from $cache, mmengine, mmdet and this project"
# torch is named again: whatever another package asks for, the build that mmcv was compiled against stays
pip "torch==$torch_version" "$cache"/mmcv-*.whl -r requirements/stack.txt -r requirements/timm.txt \
  -r requirements/export.txt -r requirements/dev.txt
"$VENV/bin/python" -c 'import cv2' 2>/dev/null || {  # a machine without a display lacks the libraries of the full build
  "$VENV/bin/python" -m pip uninstall --quiet --yes opencv-python
  pip opencv-python-headless
}
pip --no-build-isolation -e .
"$VENV/bin/python" -c 'import erq_mm.engine' # the version check speaks here rather than in the middle of a run
rm -f "$VENV"/ready-*
touch "$stamp"

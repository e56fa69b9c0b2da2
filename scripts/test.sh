#!/usr/bin/env bash
# Sets up, checks format and lint, and runs the tests; arguments go to pytest, paths are relative to the project.
#   ruff format . && ruff check --fix .          what to do if the format or the lint fails
#   scripts/test.sh                              all but the slow ones, a file on each core
#   scripts/test.sh --slow                       all that need no cluster
#   scripts/test.sh --cluster tests/cluster      those on a Kubernetes cluster, which they start and stop where this machine can
#   scripts/test.sh --cluster_quick              a small part of them, 4 to 8 minutes; where no cluster starts, none
#   scripts/test.sh --gpu_wheel                  those that read the GPU kernels of TensorFlow's wheel; they need no GPU
#   scripts/test.sh --tpu_compiler               those that compile for TPUs; they need no TPU
#   scripts/test.sh tests/data -k permutation    some
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
case " $* " in
  *" --gpu_wheel "*)
    venv="$venv-gpu-wheel"
    environment gpu_wheel
    set -- -m gpu_wheel "$@"
    ;;
  *" --cluster_quick "*)
    environment test
    # The quickest first: CI may cut them short.
    set -- -m cluster_quick tests/cluster/{waiting,shapes,faults}_test.py "$@"
    ;;
  *" --tpu_compiler "*)
    export RNN_TRAINER_TPU_COMPILER="$venv-tpu-compiler"
    (venv="$RNN_TRAINER_TPU_COMPILER" && environment tpu_compiler)
    environment test
    set -- -m tpu_compiler "$@"
    ;;
  *) environment test ;;
esac
cd "$project"
"$venv/bin/ruff" format --quiet --diff . && "$venv/bin/ruff" check --quiet . ||
  fail "format or lint: run $venv/bin/ruff format . and $venv/bin/ruff check --fix ., then the tests again"
# Without arguments, one process per core; a file stays in one process, for what its tests share. The
# files begin in the order of tests/conftest.py.
[ $# -gt 0 ] || set -- --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
exec "$venv/bin/python" -m pytest "$@"

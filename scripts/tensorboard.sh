#!/usr/bin/env bash
# Opens TensorBoard on a model folder, or on a folder of several to compare them; this machine only.
#   scripts/tensorboard.sh MODEL_DIR [PORT]
#   scripts/tensorboard.sh JOB:MODEL_DIR [PORT] [--context=C] [--namespace=N]    in a pod of a Kubernetes job that runs
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

usage="scripts/tensorboard.sh MODEL_DIR|JOB:MODEL_DIR [PORT] [--context=C] [--namespace=N]"
kubectl=(kubectl) words=()
for word; do
  case "$word" in
    --context=* | --namespace=*) kubectl+=("$word") ;;
    -*) fail "$word: no such flag. usage: $usage" ;;
    *) words+=("$word") ;;
  esac
done
[ "${#words[@]}" -ge 1 ] || fail "which model? usage: $usage"
where="${words[0]}" port="${words[1]:-6006}"

if [[ $where =~ ^([a-z][-a-z0-9]*):(/.*)$ && ! -d $where ]]; then
  job="${BASH_REMATCH[1]}" folder="${BASH_REMATCH[2]}"
  pod="$("${kubectl[@]}" get pods --field-selector=status.phase=Running --output=name \
    --selector="app.kubernetes.io/instance=$job,app.kubernetes.io/component=trainer" | head -n 1)"
  [ -n "$pod" ] || fail "$job: no pod of it runs. Of a job that has ended, mount its volume in a pod: submit --tensorboard."
  # What runs in a pod gets no signal when its connection closes, but it sees the end of its input: of a sleep that ends with this script.
  sleep infinity | "${kubectl[@]}" exec --stdin "$pod" -- sh -c \
    'python -m tensorboard.main --logdir="$1" --host=127.0.0.1 --port=6006 & cat >/dev/null; kill $!' tensorboard "$folder/tensorboard" &
  trap 'kill $(jobs -p) 2>/dev/null' EXIT
  "${kubectl[@]}" port-forward "$pod" "$port:6006"
  exit
fi

[ -d "$where" ] || fail "$where: no such folder. Name the --model_dir of a run, a folder that holds several, or JOB:MODEL_DIR."
environment cpu
# Of one model, only its own folder: then its curves are called train and eval.
logs="$where"
[ ! -d "$logs/tensorboard" ] || logs="$logs/tensorboard"
TF_CPP_MIN_LOG_LEVEL=2 exec "$venv/bin/tensorboard" --logdir="$logs" --host=127.0.0.1 --port="$port"

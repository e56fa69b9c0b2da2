#!/usr/bin/env bash
# From a fresh clone to a trained model: sets up, prepares real film reviews, trains a sentiment classifier on the CPU,
# evaluates it on reviews that it never saw, lets it judge sentences and exports it. Fails below 85 % accuracy.
#   scripts/smoke.sh ["A sentence to judge." ...]
#   RNN_TRAINER_RUNS   where data and models go; default runs/smoke in the project
# Every call trains a new model, in a folder named by the time; the data is prepared once.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
environment cpu

runs="${RNN_TRAINER_RUNS:-$project/runs/smoke}"
data="$runs/data"
model="$runs/$(date +%Y-%m-%d-%H%M%S)"
[ $# -gt 0 ] || set -- "A wonderful film, I loved every minute of it." "Dull, far too long and badly acted."

trainer() {
  local word
  printf '\n$ rnn-trainer' >&2
  for word; do [[ $word = *" "* ]] && word="\"$word\""; printf ' %s' "$word" >&2; done
  printf '\n' >&2
  "$venv/bin/rnn-trainer" "$@"
}

trainer prepare --flagfile=smoke.flags --data_dir="$data"
trainer train --flagfile=smoke.flags --data_dir="$data" --model_dir="$model"
report="$(trainer evaluate --model_dir="$model" --split=test --format=json)"
echo "$report"
trainer predict --model_dir="$model" -- "$@"
trainer export --model_dir="$model" --export_dir="$model/export"

printf '\nThe curves, of all runs here:\n  %s\n\n' "$project/scripts/tensorboard.sh $runs" >&2
"$venv/bin/python" - "$report" "$SECONDS" <<'END'
import json, sys
report, seconds = json.loads(sys.argv[1]), sys.argv[2]
accuracy = report["accuracy"]
print(f"accuracy {accuracy:.4f} on {report['examples']} reviews never trained on, after {seconds} s")
sys.exit(f"error: accuracy {accuracy:.4f}: this run reaches 0.85 on a healthy machine." if accuracy < 0.85 else 0)
END

#!/bin/sh
# One attempt of a gang under Slurm, which runs this file again as often as it is queued again.
#   start     sbatch FILE
#   watch     squeue --me --name=%{name}; tail -F %{output}
#   stop      scancel --me --name=%{name}       SIGTERM, then a checkpoint within KillWait of slurm.conf (30 s unless changed)
#   continue  start it again: the run goes on from its newest checkpoint
# Options: https://slurm.schedmd.com/sbatch.html, srun.html, scancel.html and scontrol.html.
%{options}
# Slurm signals this shell before the time limit. First of all, or an early signal would end the job without another attempt.
asked= srun=
stop() {
  asked=yes
  # srun would answer SIGTERM with SIGKILL for its tasks, so the signal goes to them directly. Before they are there, scancel fails,
  # or ends with 0 and has done nothing.
  while [ -n "$srun" ] && kill -0 "$srun" 2>/dev/null; do
    [ -n "$(squeue --noheader --steps="$SLURM_JOB_ID.0")" ] && scancel --signal=TERM "$SLURM_JOB_ID.0" && return
    sleep 1
  done
}
trap stop TERM
set -u
model=%{model_dir}
mkdir -p "$model/logs" || exit 74

# Each worker's address. Tasks are numbered node by node (--distribution=block), as the workers are. The ports are of this job.
port=$((20000 + SLURM_JOB_ID % 600 * 16))
hosts=
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
  task=0
  while [ $task -lt %{tasks_per_node} ]; do
    hosts="$hosts${hosts:+,}$node:$((port + task))"
    task=$((task + 1))
  done
done

# What each worker ends with, in a file of its own: srun itself ends with the highest code, which is not the decisive one.
codes=$(mktemp -d "$model/logs/slurm-codes.XXXXXX") || exit 74
%{make_token}
export codes hosts

# Neither a gang that cannot meet nor one that is stopped before its first checkpoint may be queued again for ever: attempts
# without a new checkpoint are counted.
newest() { ls "$model/checkpoints" 2>/dev/null | grep -x 'step-[0-9]*' | tail -n 1; }
before=$(newest)
tries=$model/logs/slurm-tries-$SLURM_JOB_ID

# Slurm signals every process of a task. The shell waits for its worker, and the worker does not inherit what it traps.
# From version 22.05 on srun does not take over --cpus-per-task from sbatch.
absent=137                                # The code of a worker that wrote none: it was killed.
if [ -n "$asked" ]; then
  absent=143                              # There is no time for workers any more.
else
  srun --distribution=block --ntasks=%{workers} --cpus-per-task=%{cpus}%{gpus} --kill-on-bad-exit=0 sh -c '
    trap : TERM
    "$@"%{gang}
    code=$?
    echo $code >"$codes/$SLURM_PROCID"
    exit $code
  ' worker %{command} &
  srun=$!
  [ -z "$asked" ] || stop                 # It came while srun was started.
  while kill -0 $srun 2>/dev/null; do
    wait $srun
  done
fi

# What trainer/exit_codes.py says about them: first the codes that fail the job, then others, then those that ask for a new attempt.
failed= other= again=
worker=0
while [ $worker -lt %{workers} ]; do
  code=$(cat "$codes/$worker" 2>/dev/null) || code=$absent
  case $code in
  0) ;;
  %{fail_codes}) failed=$code ;;
  %{again_codes}) again=$code ;;
  *) other=$code ;;
  esac
  worker=$((worker + 1))
done
rm -rf "$codes"
code=${failed:-${other:-${again:-0}}}
if [ "$code" = "$again" ] && [ "$(newest)" = "$before" ]; then
  echo x >>"$tries"
  [ "$(wc -l <"$tries")" -le %{max_restarts} ] || code=76
else
  rm -f "$tries"
fi
echo "attempt ${SLURM_RESTART_COUNT:-0} of job $SLURM_JOB_ID ended with exit code $code"
# After scancel or preemption Slurm has decided itself what happens next.
if [ "$code" = "$again" ] && [ "$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

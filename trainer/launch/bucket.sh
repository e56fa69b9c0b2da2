# Copies a folder of a bucket to a pod and back, with the tool of the bucket's owner. POSIX sh: it runs in images that we
# do not know. trainer/launch/stage.py puts it into each pod that copies.
#
#   sh bucket.sh stage URL FOLDER                   before the trainer: the pod does not start with half a copy
#   sh bucket.sh check URL JOB                      before the trainer: may this job publish there?
#   sh bucket.sh publish URL JOB FOLDER PIPE        beside the trainer: after its exit code 0, from worker 0 only
#
# The object URL.published says whether the folder at URL counts: "complete JOB" is written last, and "incomplete JOB" before
# anything is changed. JOB also keeps a second job, or a mistyped URL, from being overwritten.
#
# gcloud storage ls, cat, cp, rsync: https://cloud.google.com/sdk/gcloud/reference/storage
# aws s3 ls, cp, sync: https://docs.aws.amazon.com/cli/latest/reference/s3
set -u
umask 022
export HOME=/tmp                          # The root file system is read-only, and the user of the image may be another one.
# One process of a few threads, so that memory stays below the limit of the container; --env may say otherwise.
export CLOUDSDK_STORAGE_PROCESS_COUNT="${CLOUDSDK_STORAGE_PROCESS_COUNT:-1}"
export CLOUDSDK_STORAGE_THREAD_COUNT="${CLOUDSDK_STORAGE_THREAD_COUNT:-8}" CLOUDSDK_CORE_DISABLE_PROMPTS=1
STORAGE=74                                # trainer/exit_codes.py
USAGE=2
verb=$1 url=$2

stop() {
  echo "error: $2" >&2
  exit "$1"
}

case $url in
gs://*)
  tool=gcloud
  list() { gcloud storage ls "$1"; }
  cat_object() { gcloud storage cat "$1"; }
  put_object() { gcloud storage cp - "$1"; }
  fetch() { gcloud storage rsync --recursive "$1" "$2"; }
  # Deletes what the model folder no longer has: a reader would take an old checkpoint for the newest.
  mirror() { gcloud storage rsync --recursive --delete-unmatched-destination-objects --exclude='.*[.]tmp-.*' "$1" "$2"; }
  ;;
s3://*)
  tool=aws
  list() { aws s3 ls "$1"; }
  cat_object() { aws s3 cp "$1" -; }
  put_object() { aws s3 cp - "$1"; }
  fetch() { aws s3 sync --no-progress "$1" "$2"; }
  mirror() { aws s3 sync --no-progress --delete --exclude '*.tmp-*' "$1" "$2"; }
  ;;
*) stop $USAGE "$url: no tool is known for it. Use gs:// or s3://." ;;
esac
command -v "$tool" >/dev/null || stop $USAGE "$url: $tool is not in this image. Name an image that has it with --stage_image."

# Runs a command up to five times: 0, or 1 if it failed each time. PAUSE is 0 in tests.
retry() {
  for pause in 2 5 15 45 0; do
    "$@" && return 0
    [ "$pause" = 0 ] || sleep "$((pause * ${PAUSE:-1}))"
  done
  return 1
}

# 0 if something is at the URL, 1 if nothing is, or no such bucket. Of a folder gcloud says so, aws prints nothing; anything else is
# a failure.
look() {
  found=$(list "$1" 2>&1) && return 0
  case $tool-$found in
  gcloud-*"matched no objects"* | aws-) return 1 ;;
  gcloud-*"not found: 404"* | aws-*"(NoSuchBucket)"*) return 1 ;;
  esac
  echo "$found" >&2
  return 2
}

# 0 or 1 as `look`, which is asked again after a failure.
exists() {
  for pause in 2 5 15 45 0; do
    look "$1"
    case $? in 0) return 0 ;; 1) return 1 ;; esac
    [ "$pause" = 0 ] || sleep "$((pause * ${PAUSE:-1}))"
  done
  stop $STORAGE "$1: cannot be listed. Give the job's service account access to it."
}

mark() {
  echo "$1" | put_object "$url.published"
}

case $verb in
stage)
  folder=$3
  if exists "$url.published"; then
    case $(retry cat_object "$url.published") in
    complete\ *) ;;
    *) stop $STORAGE "$url: is not completely published. Wait for its job to end, or submit that job again." ;;
    esac
  fi
  # Some tools copy nothing from a folder that is not there, and end well.
  exists "$url/" || stop $USAGE "$url: no such folder, or nothing is in it. Correct --stage, or copy the folder there first."
  mkdir -p "$folder" || stop $STORAGE "$folder: cannot be made. Mount a volume there."
  retry fetch "$url" "$folder" || stop $STORAGE "$url: could not be copied to $folder."
  ;;
check)
  job=$3
  [ "${JOB_COMPLETION_INDEX:-0}" = 0 ] || exit 0
  if exists "$url.published"; then
    owner=$(retry cat_object "$url.published") || stop $STORAGE "$url.published: cannot be read."
    case $owner in
    "complete $job" | "incomplete $job") ;;
    *) stop $USAGE "$url: $url.published says that it belongs to '${owner#* }', not to '$job'. Choose another --publish." ;;
    esac
  elif exists "$url/"; then
    stop $USAGE "$url: is not empty, and no job published it. Files there would be deleted: choose another --publish."
  else
    owner="incomplete $job"
  fi
  # A bucket that cannot be written is found here, and not after the training.
  retry mark "$owner" || stop $STORAGE "$url.published: cannot be written. Give the job's service account access to it."
  ;;
publish)
  job=$3 folder=$4 pipe=$5
  # Ends when the trainer writes its exit code, or when it is gone without one.
  read -r code <"$pipe" || code=none
  [ "$code" = 0 ] && [ "${JOB_COMPLETION_INDEX:-0}" = 0 ] || exit 0
  retry mark "incomplete $job" || stop $STORAGE "$url.published: cannot be written."
  retry mirror "$folder" "$url" || stop $STORAGE "$folder: could not be copied to $url, where $url.published says so."
  retry mark "complete $job" || stop $STORAGE "$url.published: cannot be written, so the copy at $url does not count yet."
  echo "published $folder as $url"
  ;;
esac

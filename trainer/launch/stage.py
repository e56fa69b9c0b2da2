"""Folders of a bucket that the pods of a job copy: datasets to scratch before, the model after.

The trainer needs folders that it can lock and rename, and a bucket has none. So the tool of the
bucket's owner copies, in containers of its own image, and `bucket.sh` says in what order:

    tools      init container of our image: puts bucket.sh and a pipe into the pod's /tmp
    stage-N    init container of the tool's image: copies a folder; half a copy fails the pod, and
               the trainer checks every file of a dataset against its digests before it trains
    check      init container of the tool's image, worker 0: whether the target is ours and can be
               written, which is better known before the training than after it
    trainer    holds the pipe open, and writes its exit code into it at its end
    publish    beside the trainer: reads the pipe, and copies after code 0, in worker 0

A trainer that is killed closes the pipe without a code, so nothing is copied and the pod ends with
it. If the copy fails, or its pod is evicted, a new pod finds the run finished and copies again.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import sys

from trainer.exit_codes import UsageError
from trainer.flags.submit import Submit

# {scheme: its tool, and an image that has it}.
TOOLS = {"gs": ("gcloud", "google/cloud-sdk:slim"), "s3": ("aws", "amazon/aws-cli")}
SCRIPT = "bucket.sh"
SHARED = "/tmp"  # The containers of a pod share it.
PIPE = f"{SHARED}/outcome"
# Read by `streams.Outcome`. A shell opens the file descriptor, so that it is there, and closed if
# the trainer cannot even start. The shell waits until `publish` reads.
HOLD_PIPE = f"exec 9>{PIPE}; export TRAINER_OUTCOME_FD=9; "
# What the tools need; with one process of 8 threads they use less.
CPU, MEMORY = "250m", "1Gi"

_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<bucket>[a-z0-9][-a-z0-9_.]*)(?P<folder>/.*)?"
)
_FOLDER = re.compile(r"(/[A-Za-z0-9_=@%+,.-]+)+")


@dataclasses.dataclass(frozen=True)
class Copy:
    """A folder of a bucket (`url`, without a slash at its end) and its `folder` in the pods."""

    url: str
    folder: str

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]


def staged(submit: Submit) -> tuple[Copy, ...]:
    """Returns the copies of --stage. Raises UsageError if one cannot be read."""
    copies = []
    for text in submit.stage:
        url, _, folder = text.rpartition(":")
        if not folder.startswith("/") or folder.startswith("//") or ".." in folder.split("/"):
            raise UsageError(
                f"--stage={text}: must be a folder of a bucket and an absolute path in the pods, "
                "for example gs://BUCKET/FOLDER:/scratch/FOLDER."
            )
        copies.append(Copy(_checked("stage", text, url), folder.rstrip("/")))
    if len({copy.folder for copy in copies}) < len(copies):
        raise UsageError(
            f"--stage={submit.stage[-1]}: two copies cannot go to the same folder. Name another "
            "one."
        )
    return tuple(copies)


def published(submit: Submit, model_dir: str) -> Copy | None:
    """Returns the copy of --publish, None without it. Raises UsageError if it cannot be read."""
    if not submit.publish:
        return None
    return Copy(_checked("publish", submit.publish, submit.publish), model_dir)


def _checked(flag: str, given: str, url: str) -> str:
    """Returns `url` without a slash at its end; raises UsageError unless it names a folder."""
    found = _URL.fullmatch(url.rstrip("/"))
    if not found or found["scheme"] not in TOOLS:
        known = " or ".join(f"{scheme}://" for scheme in TOOLS)
        raise UsageError(
            f"--{flag}={given}: must begin with {known}, because the copy needs a tool that this "
            "program knows. Copy the folder there first, or mount it as a volume."
        )
    if not found["folder"] or not _FOLDER.fullmatch(found["folder"]):
        raise UsageError(
            f"--{flag}={given}: must name a folder of the bucket, of letters, digits and any of "
            f"_ = @ % + , . -. Use {found['scheme']}://{found['bucket']}/FOLDER."
        )
    return url.rstrip("/")


def check_image(submit: Submit, copies: tuple[Copy, ...]) -> None:
    """Raises UsageError unless --stage_image fits the copies: one tool, and an image for it."""
    schemes = sorted({copy.scheme for copy in copies})
    if len(schemes) > 1:
        raise UsageError(
            f"--stage_image={submit.stage_image}: --stage and --publish name "
            f"{' and '.join(f'{scheme}://' for scheme in schemes)}, and one image has the tool of "
            "one of them. Use buckets of one owner."
        )
    if schemes and not submit.stage_image:
        tool, image = TOOLS[schemes[0]]
        raise UsageError(
            f"--stage_image is empty: {copies[0].url} is copied by {tool}, which our image does "
            f"not have. Name an image that has it, for example --stage_image={image}."
        )
    if submit.stage_image and not schemes:
        raise UsageError(
            f"--stage_image={submit.stage_image}: nothing is copied. Leave it out, or name a "
            "folder with --stage or --publish."
        )


def main(folder: str) -> None:
    """Puts bucket.sh and the pipe into `folder`."""
    shutil.copy(pathlib.Path(__file__).with_name(SCRIPT), folder)
    pipe = pathlib.Path(folder, pathlib.PurePath(PIPE).name)
    pipe.unlink(missing_ok=True)  # The kubelet may start an init container again.
    os.mkfifo(pipe)


if __name__ == "__main__":
    main(sys.argv[1])

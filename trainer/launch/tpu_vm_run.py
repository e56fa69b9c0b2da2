"""Carries out the plan of a Cloud TPU VM job, and deletes the VM at the end, also after a failure.

Whatever happens after the request was made (a failed step, Ctrl-C, SIGTERM), the results are
fetched and the request is deleted: a TPU costs money until then.
"""

import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import time

from trainer.exit_codes import PeerLostError, StorageError, TrainerError, UsageError
from trainer.launch import tpu_vm

log = logging.getLogger(__name__)

# States in which a request may still become ACTIVE; ACCEPTED is the older name of
# WAITING_FOR_RESOURCES.
WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")

TRIES = 3  # Of what must not fail because of one lost connection.
CALM_SECONDS = 600.0  # A connection that held for so long begins a new count.


class LostError(PeerLostError):
    """The TPU was never given, or was taken away; the same command goes on from what is in the
    model folder.
    """


def run(job: tpu_vm.TpuVmJob) -> int:
    """Carries the plan out; returns the exit code of the container.

    Raises:
      UsageError: gcloud is not there, or refuses the request.
      LostError: the TPU was not given, or was taken away.
      StorageError: the results could not be copied back.
      TrainerError: the request could not be deleted; the message has the call that does it.
    """
    if not shutil.which("gcloud"):
        raise UsageError(
            "gcloud is not on the PATH: a Cloud TPU VM is reached through it. Install the Google "
            "Cloud CLI "
            "(https://cloud.google.com/sdk/docs/install), or take the calls as text, without "
            "--apply."
        )
    return _Execution(job).whole()


class _Execution:
    """One execution of a plan."""

    def __init__(self, job: tpu_vm.TpuVmJob):
        self._job = job
        self._steps = {step.name: step for step in tpu_vm.plan(job)}
        self._requested = self._started = self._ended = False

    def whole(self) -> int:
        try:
            self._request()
            self._wait()
            self._started = True  # A start that fails half-way may have started the container.
            self._succeed("start", tries=TRIES)
            code = self._follow()
            self._ended = True
        finally:
            if self._requested:
                with _undisturbed():
                    self._clean_up()
        return code

    # --- the steps --------------------------------------------------------------------------------

    def _request(self) -> None:
        found = self._describe()
        if found and _state(found) in ("FAILED", "SUSPENDED"):
            log.info("an earlier request %s is %s: deleting it", self._job.name, _state(found))
            self._succeed("delete")
            found = None
        if found:
            self._check_same(found)
            self._requested = True
            log.info("request %s exists and is %s", self._job.name, _state(found))
        else:
            # From now on there may be something to delete, whatever the answer.
            self._requested = True
            self._succeed("create")

    def _check_same(self, found: dict) -> None:
        types = {
            spec.get("node", {}).get("acceleratorType")
            for spec in found.get("tpu", {}).get("nodeSpec", [])
        }
        if types - {self._job.accelerator_type, None}:
            raise UsageError(
                f"--tpu={self._job.accelerator_type}: a request {self._job.name} exists with "
                f"{', '.join(sorted(types - {None}))}. Choose another --name, or delete that "
                "one:\n  "
                f"{shlex.join(self._steps['delete'].argv)}"
            )

    def _wait(self) -> None:
        shown = None
        while True:
            found = self._look()
            state = _state(found)
            if state != shown:
                log.info("request %s: %s", self._job.name, state)
                shown = state
            if state == "ACTIVE":
                return
            if state not in WAITING:
                raise LostError(
                    f"request {self._job.name} is {state}{_reason(found)}: the TPU is not there. "
                    "Try again later, in "
                    "another zone, with a longer --valid_until, or without --spot."
                )
            time.sleep(tpu_vm.POLL_SECONDS)

    def _follow(self) -> int:
        failures = 0
        while failures < TRIES:
            began = time.monotonic()
            answer = self._call("follow", show=True)
            # Else the connection was lost, and the container may run for hours yet.
            if answer.returncode == 0:
                answer = self._call("result")
                if answer.returncode == 0 and answer.stdout.strip().isdigit():
                    return int(answer.stdout)
            found = self._look()
            if _state(found) != "ACTIVE":
                raise LostError(
                    f"request {self._job.name} is {_state(found)}: the TPU was taken away. What "
                    "was copied to "
                    f"{self._job.model} before is kept, the last {tpu_vm.UPLOAD_SECONDS} s may be "
                    "lost. Run the same "
                    "command again to go on from there."
                )
            failures = 1 if time.monotonic() - began > CALM_SECONDS else failures + 1
            log.warning(
                "the connection to %s ended before the container did: connecting again",
                self._job.name,
            )
            time.sleep(tpu_vm.POLL_SECONDS)
        raise LostError(
            f"{self._job.name} cannot be reached: {TRIES} connections in a row ended before the "
            "container did. See "
            "what this says, and run the same command again:\n  "
            f"{shlex.join(self._steps['follow'].argv)}"
        )

    def _clean_up(self) -> None:
        lost = None
        if self._started:
            if not self._ended:
                log.info("stopping the container, %g s for a checkpoint", self._job.grace_seconds)
                self._call("stop")
            lost = self._try("fetch")
        kept = self._try("delete")
        if kept:
            raise TrainerError(
                f"request {self._job.name} could not be deleted ({kept}) and COSTS MONEY until it "
                "is. Run\n  "
                f"{shlex.join(self._steps['delete'].argv)}"
            )
        log.info("request %s and its VM are deleted", self._job.name)
        # Else the failure before is the news, and what it says of the copies holds.
        if lost and self._ended:
            raise StorageError(
                f"the model folder could not be copied to {self._job.model} ({lost}); the copy "
                "there may be "
                f"{tpu_vm.UPLOAD_SECONDS} s older than the end. Give the TPU's service account "
                "write access, and "
                "run the same command again."
            )

    # --- calls ------------------------------------------------------------------------------------

    def _describe(self) -> dict | None:
        """What gcloud says of the request, None where there is none."""
        answer = self._call("describe")
        if answer.returncode:
            if "NOT_FOUND" in answer.stderr:
                return None
            raise self._refused("describe", answer)
        return json.loads(answer.stdout)

    def _look(self) -> dict | None:
        """`_describe`, although the network may be away for a moment."""
        for left in reversed(range(TRIES)):
            try:
                return self._describe()
            except UsageError:
                if not left:
                    raise
            time.sleep(tpu_vm.POLL_SECONDS)

    def _succeed(self, name: str, tries: int = 1) -> None:
        for left in reversed(range(tries)):
            answer = self._call(name)
            if answer.returncode == 0:
                return
            if left:
                time.sleep(tpu_vm.POLL_SECONDS)
        raise self._refused(name, answer)

    def _try(self, name: str) -> str | None:
        """None when the step succeeded at last or there is nothing to do it to; else what gcloud
        said.
        """
        for left in reversed(range(TRIES)):
            answer = self._call(name)
            if answer.returncode == 0 or (name == "delete" and "NOT_FOUND" in answer.stderr):
                return None
            if left:
                time.sleep(tpu_vm.POLL_SECONDS)
        return _last_line(answer)

    def _call(self, name: str, show: bool = False) -> subprocess.CompletedProcess:
        step, pipe = self._steps[name], None if show else subprocess.PIPE
        if name != "describe":
            log.info("%s: %s", name, step.why)
        # Ctrl-C reaches every process of a terminal's group. In a group of its own a call ends when
        # we say so, with its ssh.
        with subprocess.Popen(
            step.argv,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, errors = process.communicate()
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
        return subprocess.CompletedProcess(step.argv, process.returncode, out or "", errors or "")

    def _refused(self, name: str, answer: subprocess.CompletedProcess) -> UsageError:
        return UsageError(
            f"{name} of {self._job.name} failed with exit code {answer.returncode}: "
            f"{answer.stderr.strip()}\n"
            f"The call was: {shlex.join(self._steps[name].argv)}"
        )


@contextlib.contextmanager
def _undisturbed():
    """SIGINT and SIGTERM are answered with a sentence during the block: it must come to its end."""

    def say(number, frame):
        log.warning(
            "%s: the TPU is being deleted and costs money until then", signal.Signals(number).name
        )

    before = {number: signal.signal(number, say) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _state(found: dict | None) -> str:
    """The state in what `describe` answered: a word of
    https://cloud.google.com/tpu/docs/queued-resources, or `gone`.
    """
    return found.get("state", {}).get("state", "unknown") if found else "gone"


def _reason(found: dict | None) -> str:
    """The error of a failed request in parentheses, where there is one."""
    state = found.get("state", {}) if found else {}
    message = state.get("failedData", {}).get("error", {}).get("message", "")
    return f" ({message})" if message else ""


def _last_line(answer: subprocess.CompletedProcess) -> str:
    return (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]

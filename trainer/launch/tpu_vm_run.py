"""Executes the plan of a Cloud TPU VM job and deletes the VM at the end, also after a failure.

After the request was made, the results are fetched and the request is deleted whatever happens (a
failed step, Ctrl-C, SIGTERM): a TPU costs money until then.
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
from collections.abc import Iterator

from trainer.exit_codes import PeerLostError, StorageError, TrainerError, UsageError
from trainer.launch import tpu_vm

log = logging.getLogger(__name__)

# States in which a request may still become ACTIVE; ACCEPTED is the older name of
# WAITING_FOR_RESOURCES.
WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")

TRIES = 3  # For calls that must survive a lost connection.
CALM_SECONDS = 600.0  # A connection that lasted this long resets the count of failures.


class LostError(PeerLostError):
    """The TPU was not available, or was taken away; the same command continues the run."""


def run(job: tpu_vm.TpuVmJob) -> int:
    """Executes the plan; returns the exit code of the container.

    Raises:
      UsageError: gcloud is not installed, or refuses the request.
      LostError: the TPU was not available, or was taken away.
      StorageError: the results could not be copied back.
      TrainerError: the request could not be deleted; the message has the call that deletes it.
    """
    if not shutil.which("gcloud"):
        raise UsageError(
            "gcloud is not on the PATH: --target=tpu_vm needs it. Install the Google Cloud CLI "
            "(https://cloud.google.com/sdk/docs/install), or print the calls without --apply."
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
            self._started = True  # Even a start that fails may have started the container.
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
            # Set first: even if the call fails, the request may exist and must be deleted.
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
                f"one:\n  {shlex.join(self._steps['delete'].argv)}"
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
                    f"request {self._job.name} is {state}{_reason(found)}: the TPU is not "
                    "available. Try again later, in another --zone, with a longer --valid_until, "
                    "or without --spot."
                )
            time.sleep(tpu_vm.POLL_SECONDS)

    def _follow(self) -> int:
        failures = 0
        while failures < TRIES:
            began = time.monotonic()
            answer = self._call("follow", show=True)
            # Any other code means a lost connection: the container may still run for hours.
            if answer.returncode == 0:
                answer = self._call("result")
                if answer.returncode == 0 and answer.stdout.strip().isdigit():
                    return int(answer.stdout)
            found = self._look()
            if _state(found) != "ACTIVE":
                raise LostError(
                    f"request {self._job.name} is {_state(found)}: the TPU was taken away. The "
                    f"copy in {self._job.model} is kept; the last {tpu_vm.UPLOAD_SECONDS} s may be "
                    "lost. Run the same command again to continue from the copy."
                )
            failures = 1 if time.monotonic() - began > CALM_SECONDS else failures + 1
            log.warning(
                "the connection to %s ended before the container did: connecting again",
                self._job.name,
            )
            time.sleep(tpu_vm.POLL_SECONDS)
        raise LostError(
            f"{self._job.name} cannot be reached: {TRIES} connections in a row ended before the "
            "container did. Check the output of this call, and run the same command again:\n  "
            f"{shlex.join(self._steps['follow'].argv)}"
        )

    def _clean_up(self) -> None:
        lost = None
        if self._started:
            if not self._ended:
                log.info(
                    "stopping the container; it has %g s for a checkpoint", self._job.grace_seconds
                )
                self._call("stop")
            lost = self._try("fetch")
        kept = self._try("delete")
        if kept:
            raise TrainerError(
                f"request {self._job.name} could not be deleted ({kept}) and COSTS MONEY until it "
                f"is. Run\n  {shlex.join(self._steps['delete'].argv)}"
            )
        log.info("request %s and its VM are deleted", self._job.name)
        # After another failure that one is raised, and its message covers the copies too.
        if lost and self._ended:
            raise StorageError(
                f"the model folder could not be copied to {self._job.model} ({lost}); the copy "
                f"there may lack the last {tpu_vm.UPLOAD_SECONDS} s. Give the TPU's service "
                "account write access, and run the same command again."
            )

    # --- calls ------------------------------------------------------------------------------------

    def _describe(self) -> dict | None:
        """Returns gcloud's description of the request, None if there is none."""
        answer = self._call("describe")
        if answer.returncode:
            if "NOT_FOUND" in answer.stderr:
                return None
            raise self._refused("describe", answer)
        return json.loads(answer.stdout)

    def _look(self) -> dict | None:
        """Returns `_describe`, with retries in case the network is away for a moment."""
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
        """Tries a step several times; returns None if it succeeded, else gcloud's message.

        Deleting a request that does not exist counts as success.
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
        # Ctrl-C reaches every process of the terminal's group. In a group of its own a call, with
        # its ssh, ends only when we end it.
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
def _undisturbed() -> Iterator[None]:
    """Answers SIGINT and SIGTERM with a warning during the block, which must run to its end."""

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
    """Returns the state in a description, `gone` if there is none.

    States: https://cloud.google.com/tpu/docs/queued-resources.
    """
    return found.get("state", {}).get("state", "unknown") if found else "gone"


def _reason(found: dict | None) -> str:
    """Returns the error of a failed request in parentheses, "" if there is none."""
    state = found.get("state", {}) if found else {}
    message = state.get("failedData", {}).get("error", {}).get("message", "")
    return f" ({message})" if message else ""


def _last_line(answer: subprocess.CompletedProcess) -> str:
    return (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]

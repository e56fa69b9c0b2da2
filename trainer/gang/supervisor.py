"""Supervises the training process of one worker: meets the others, takes signals, restarts it.

A supervisor imports no TensorFlow, because TensorFlow swallows SIGTERM and holds the interpreter
while it waits for peers. `member` makes the decisions; it is a state machine without sockets or
processes. This file passes events to it and carries out its actions: `links` are the connections to
the other workers, `child` is the training process.
"""

import asyncio
import json
import logging
import os
import pathlib
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from trainer import durable, stopping, streams
from trainer.data import epochs, store
from trainer.devices import accelerator, hardware, resources
from trainer.exit_codes import BY_NAME, UsageError
from trainer.flags import run as configuration
from trainer.gang import child, identity, links, member, messages, proof, roster, watchdog
from trainer.model_folder import commits
from trainer.model_folder.journal import Journal, read
from trainer.stopping import StopRequest

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
SLEPT_SECONDS = 3.0  # If a tick is this late, this process itself did not run.
END_SECONDS = 10.0  # The longest wait for the end of a killed process.
BOUND_TICKS = 30  # Ticks between two checks of how long a stop would take.
SAVES = 20  # The newest saves whose seconds count for that.


def wanted(config: configuration.Config, environ: Mapping[str, str], pid: int) -> bool:
    """Returns whether this worker is supervised: --supervise.

    By default it is if there are several workers, or if it is process 1. Raises UsageError if flags
    and environment contradict each other, or if --strategy does not fit the number of workers.
    """
    if config.gang.supervise == "off":  # Then TF_CONFIG alone names the workers.
        if config.gang.num_workers > 1:
            raise UsageError(
                f"--supervise=off: --num_workers={config.gang.num_workers} would have no effect, "
                "because workers meet through their supervisors. Leave out one of the two."
            )
        roster.resolve(configuration.Gang(), environ)
        return False
    workers = roster.resolve(config.gang, environ).workers
    roster.check_strategy(config.run.strategy, workers)
    return config.gang.supervise == "on" or pid == 1 or workers > 1


def run(config: configuration.Config, environ: Mapping[str, str], stop: StopRequest) -> int:
    """Supervises this worker of the run `config` to its end and returns the exit code.

    stop: has taken the signals until now. Raises TrainerError if this worker cannot begin.
    """
    return asyncio.run(Supervisor(config, environ).run(stop))


def train_command(config: configuration.Config, start: member.Start) -> list[str]:
    """Returns the command of a training process: `train` with the same flags but without a gang.

    Threads and shards are those of the generation. Its TF_CONFIG names the other workers.
    """
    config = configuration.replace(
        config, threads=start.threads, shards=start.shards, supervise="off"
    )
    flags = configuration.as_flags(
        config,
        without=(
            "num_workers",
            "worker_index",
            "hosts",
            "chief_address",
            "min_workers",
            "gang_token_file",
        ),
    )
    return [sys.executable, "-m", "trainer", "train", *flags]


def child_environment(
    environ: Mapping[str, str], index: int, start: member.Start
) -> dict[str, str]:
    """Returns the environment of the training process of worker `index`."""
    kept = {name: value for name, value in environ.items() if name != "TF_CONFIG"}
    kept["RNN_TRAINER_WORKER"] = str(index)
    if len(start.members) > 1:
        kept["TF_CONFIG"] = json.dumps(
            {
                "cluster": {"worker": list(start.members)},
                "task": {"type": "worker", "index": start.rank},
            }
        )
    return kept


class Supervisor:
    """The supervisor of one worker.

    command(config, start): the command of the training process.
    silence: seconds after which a peer counts as lost.
    """

    def __init__(
        self,
        config: configuration.Config,
        environ: Mapping[str, str],
        command: Callable[[configuration.Config, member.Start], list[str]] = train_command,
        silence: float = links.SILENCE_SECONDS,
    ):
        self._config = config
        self._environ = environ
        self._command = command
        self._roster = roster.resolve(config.gang, environ)
        self._folder = pathlib.Path(config.folders.model_dir)
        self._description, digest = store.read_description(pathlib.Path(config.folders.data_dir))
        device = hardware.of(
            config.run, environ, accelerator.device_files(), accelerator.installed()
        )
        self._identity = {
            what: messages.plain(value)
            for what, value in identity.of(config, self._roster.workers, digest, device).items()
        }
        self._journal = Journal(self._folder / "journal.jsonl", 0, worker=self._roster.index)
        self._member = member.Member(self._rules(), self._world(), time.monotonic())
        token = proof.Token(config.gang.gang_token_file)
        self._links = links.Links(self._roster, self._hello(), self, silence, token.read)
        self._child: child.Child | None = None
        self._over, self._child_gone = asyncio.Event(), asyncio.Event()
        self._exit: member.Exit | None = None
        self._bug: BaseException | None = None
        self._terminals = streams.terminals()

    def _rules(self) -> member.Rules:
        gang = self._config.gang
        return member.Rules(
            self._roster.index,
            self._roster.addresses,
            gang.min_workers,
            gang.rendezvous_seconds,
            gang.rejoin_seconds,
            gang.grace_seconds,
            gang.max_restarts,
        )

    def _world(self) -> member.World:
        return member.World(
            self._settle, lambda: commits.newest(self._folder), self._fresh_address, self._finished
        )

    def _hello(self) -> links.Hello:
        job = (
            f"--model_dir={self._config.folders.model_dir}, workers at "
            f"{','.join(self._roster.addresses)}"
        )
        instance = uuid.uuid4().hex
        return links.Hello(
            self._roster.index, instance, messages.plain(job), self._identity, self._roster.ip
        )

    async def run(self, stop: StopRequest) -> int:
        """Supervises to the end, as `run` of this module does."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        for number in stopping.listened():
            loop.add_signal_handler(number, self._on_signal, number)
        stopping.pause_together(self._pause_child, self._resume_child)
        if stop.asked:
            self._on_signal(stop.signal)
        ticking = asyncio.create_task(self._tick())
        ticking.add_done_callback(self._on_end_of_ticks)
        try:
            if self._roster.workers > 1:
                log.info(
                    "worker %d of %d: meeting the others at %s",
                    self._roster.index,
                    self._roster.workers,
                    self._roster.addresses[self._roster.index],
                )
                if not self._config.gang.gang_token_file:
                    log.warning(
                        "without --gang_token_file any program that reaches this address can take "
                        "part in the job or end it"
                    )
            await self._links.open()
            self._member.begin(time.monotonic())
            self._act()
            await self._over.wait()
        finally:
            ticking.cancel()
            await self._end_child()
            await self._links.close()
            self._journal.close()
        if self._bug:
            raise self._bug
        return self._report_end()

    # --- events -----------------------------------------------------------------------------------

    def differs(self, hello: links.Hello) -> str:
        """Returns how a worker differs from this one; "" if it may take part.

        A gang that has not run yet ends with that difference; one that runs continues without the
        worker.
        """
        own = (self._roster.index, self._identity)
        first, second = sorted([own, (hello.index, hello.identity)], key=lambda worker: worker[0])
        difference = identity.differences(*first, *second)
        if difference and self._member.has_run:
            log.warning("worker %d is refused: %s", hello.index, difference)
        elif difference:
            self._member.refuse_all(difference, time.monotonic())
            self._act()
        return difference

    def link_up(self, index: int) -> None:
        """Passes the event to the member."""
        self._member.link_up(index, time.monotonic())
        self._act()

    def link_down(self, index: int, reason: str) -> None:
        """Passes the event to the member."""
        self._member.link_down(index, reason, time.monotonic())
        self._act()

    def received(self, index: int, message: dict[str, Any]) -> None:
        """Passes the event to the member."""
        self._member.receive(index, message, time.monotonic())
        self._act()

    def unreachable(self, index: int, reason: str) -> None:
        """Passes the event to the member."""
        self._member.unreachable(index, reason)

    def refused(self, index: int, reason: str) -> None:
        """Worker `index` refuses this one for good: the job ends, unless the gang has run."""
        if not self._member.has_run:
            self._member.refuse_all(reason, time.monotonic())
            self._act()

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            streams.leave(self._terminals)
        log.info("%s: stopping", signal.Signals(number).name)
        self._member.signalled(int(stopping.meaning(number)), time.monotonic())
        self._act()

    def _pause_child(self) -> None:
        if self._child:
            self._child.pause()

    def _resume_child(self) -> None:
        if self._child:
            self._child.resume()

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Ends this worker because of an unexpected exception in a callback or a task.

        A connection that cannot be accepted (no file descriptor is left) is not one: asyncio tries
        again.
        """
        if "socket" in context and isinstance(context.get("exception"), OSError):
            log.warning("a connection could not be accepted: %s", context["exception"])
            return
        self._bug = self._bug or context.get("exception") or RuntimeError(context["message"])
        self._over.set()

    def _on_end_of_ticks(self, ticking: asyncio.Task) -> None:
        if not ticking.cancelled():  # No code waits for this task, so its exception would be lost.
            self._on_bug(
                asyncio.get_running_loop(),
                {"message": "no more ticks", "exception": ticking.exception()},
            )

    def _on_beat(self, watch: watchdog.Watch) -> None:
        if watch.trained:
            self._member.child_trains()

    def _on_child_end(self, code: int, reason: str, last_lines: tuple[str, ...]) -> None:
        self._child = None
        self._child_gone.set()
        self._member.child_ended(code, reason, last_lines, time.monotonic())
        self._act()

    async def _tick(self) -> None:
        ticks, last = 0, time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            ticks, now = ticks + 1, time.monotonic()
            late, last = now - last - TICK_SECONDS, now
            if late > SLEPT_SECONDS:
                self._member.slept(late)
                self._links.slept(late)
                if self._child:
                    self._child.watch.slept(late)
            if self._child:
                self._child.look()
                if ticks % BOUND_TICKS == 0:
                    self._check_bound()
            if os.getpid() == 1:
                child.reap_orphans(self._child and self._child.pid)
            self._member.tick(now)
            self._act()

    # --- actions ----------------------------------------------------------------------------------

    def _act(self) -> None:
        """Carries out the actions of the member."""
        for action in self._member.take():
            if isinstance(action, member.Send):
                self._links.send(action.to, action.message)
            elif isinstance(action, member.Start):
                self._start(action)
            elif isinstance(action, member.Kill) and self._child:
                self._child.kill()
            elif isinstance(action, member.Ask) and self._child:
                if action.request["ask"] == "stop":
                    self._announce_stop()
                self._child.ask(action.request)
            elif isinstance(action, member.Note):
                self._note(action)
            elif isinstance(action, member.Say):
                log.info("%s", action.text)
            elif isinstance(action, member.Exit) and self._exit is None:
                self._exit = action
                self._over.set()

    def _start(self, start: member.Start) -> None:
        self._child_gone.clear()
        try:
            self._child = child.Child(
                self._command(self._config, start),
                child_environment(self._environ, self._roster.index, start),
                self._config.gang.hang_seconds,
                self._on_beat,
                self._on_child_end,
            )
        except OSError as problem:
            self._child_gone.set()
            lines = (f"the training process did not start: {problem}",)
            asyncio.get_running_loop().call_soon(self._on_child_end, BY_NAME["bug"], "", lines)

    def _note(self, note: member.Note) -> None:
        try:
            durable.make_folder(self._folder)
        except OSError:
            pass  # Writing to the journal fails with the reason.
        self._journal.write(note.event, **note.fields)

    async def _end_child(self) -> None:
        if self._child:
            self._child.kill()
            try:
                await asyncio.wait_for(self._child_gone.wait(), END_SECONDS)
            except asyncio.TimeoutError:
                log.error("the training process %d was killed but has not ended", self._child.pid)

    def _report_end(self) -> int:
        if self._exit.code == BY_NAME["done"]:
            log.info("worker %d: done", self._roster.index)
        elif self._exit.code in member.CLEAN:
            log.info("worker %d: %s", self._roster.index, self._exit.reason)
        else:
            streams.print_error(self._exit.reason)
        if self._exit.line:
            streams.print_line(self._exit.line)
        return self._exit.code

    # --- answers to the member --------------------------------------------------------------------

    def _settle(self, workers: int) -> tuple[int, int]:
        run = resources.settled(self._config, commits.exist(self._folder), workers).run
        return run.threads, run.shards

    def _finished(self) -> str:
        split = self._description["splits"]["train"]
        of_run = epochs.of_split(
            store.order_in(self._description),
            split["examples"],
            split[store.input_in(self._description).array],
            self._config.input,
        )
        return commits.finished_line(self._folder, of_run.total_steps(self._config.run))

    def _fresh_address(self) -> str:
        """Returns where TensorFlow will listen: a free port of this host, "" without peers.

        Every generation gets a new one, so that no connection of an earlier one leads there. An IP
        address is better than a name, which may still lead to the pod before this one.
        """
        if self._roster.workers == 1:
            return ""
        host = (
            self._roster.ip or roster.host_and_port(self._roster.addresses[self._roster.index])[0]
        )
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind(("", 0))
            return roster.joined(host, probe.getsockname()[1])

    def _stop_bound(self) -> float | None:
        saves = [
            event["seconds"]
            for event in read(self._folder / "journal.jsonl")
            if event.get("event") == "save" and "seconds" in event
        ]
        return watchdog.stop_bound(self._child.watch.intervals, saves[-SAVES:])

    def _announce_stop(self) -> None:
        bound, allowed = self._stop_bound(), self._config.gang.grace_seconds - member.MARGIN_SECONDS
        if bound is None:
            log.info(
                "stopping: no loop and save have been timed yet, so at most %.1f s, which is "
                "--grace_seconds less %g s",
                allowed,
                member.MARGIN_SECONDS,
            )
        else:
            log.info("stopping: at most %.1f s", bound)

    def _check_bound(self) -> None:
        bound, allowed = self._stop_bound(), self._config.gang.grace_seconds - member.MARGIN_SECONDS
        if bound is not None and bound > allowed:
            log.warning(
                "a stop may take %.1f s, but --grace_seconds=%g leaves %g s for it: lower "
                "--steps_per_loop, or raise the grace period of the cluster and --grace_seconds",
                bound,
                self._config.gang.grace_seconds,
                allowed,
            )

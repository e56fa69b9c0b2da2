"""One worker's part in a gang: a state machine that takes events and returns actions.

It has no sockets, processes or clocks. Its phases:

    meeting   there is no training process, or it is being ended; the connected worker of the lowest
              index leads and forms the gang
    running   the training process of this generation runs
    finished  it has ended well; others still run
    over      the job has ended, with an exit code

A member that loses its training process reports that to the leader. The leader informs all others,
every member ends its process, and all meet again. Times are seconds of any monotonic clock. A link
delivers the messages of a peer in order, or goes down.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from trainer.exit_codes import BY_NAME, TrainerError
from trainer.gang import rendezvous
from trainer.model_folder import commits
from trainer.stopping import PRESS_SECONDS

CLEAN = (BY_NAME["done"], BY_NAME["interrupted"], BY_NAME["terminated"])
STOPPED = {2: BY_NAME["interrupted"], 15: BY_NAME["terminated"]}
MARGIN_SECONDS = 5.0  # The part of --grace_seconds that is kept for killing what did not stop.
LONGEST_WAIT_SECONDS = 1e9  # What stands for an endless one in a message.
ANSWER_SECONDS = 5.0  # How long a member waits for the leader's answer after it reports an end.


@dataclasses.dataclass(frozen=True)
class Rules:
    """The settings of a member. Seconds and counts are the flags of the same names.

    minimum: --min_workers.
    """

    index: int
    addresses: tuple[str, ...]
    minimum: int
    rendezvous_seconds: float
    rejoin_seconds: float
    grace_seconds: float
    max_restarts: int

    @property
    def workers(self) -> int:
        """Returns how many workers the job has."""
        return max(1, len(self.addresses))


@dataclasses.dataclass(frozen=True)
class World:
    """The questions that a member asks its surroundings.

    settle(workers): (threads, shards) of a gang of that many workers; raises UsageError if the run
      in the model folder has another configuration.
    newest(): the newest checkpoint.
    fresh_address(): where TensorFlow will listen in the next generation.
    finished(): the last line of a run that is complete, "" of any other.
    """

    settle: Callable[[int], tuple[int, int]]
    newest: Callable[[], commits.Commit | None]
    fresh_address: Callable[[], str]
    finished: Callable[[], str] = lambda: ""


@dataclasses.dataclass(frozen=True)
class Send:
    """Send `message` to worker `to`."""

    to: int
    message: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Start:
    """Start the training process of a generation.

    members: TensorFlow's addresses in order of rank.
    """

    generation: int
    members: tuple[str, ...]
    rank: int
    threads: int
    shards: int


@dataclasses.dataclass(frozen=True)
class Kill:
    """Kill the training process; its end comes back as an event."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """Send `request` to the training process through its channel."""

    request: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Note:
    """Write a line of the journal."""

    event: str
    fields: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Say:
    """Write a sentence to the log."""

    text: str


@dataclasses.dataclass(frozen=True)
class Exit:
    """End this worker.

    line: to print last; "" if the training process has printed it.
    """

    code: int
    reason: str
    line: str = ""


Action = Send | Start | Kill | Ask | Note | Say | Exit


class Status(NamedTuple):
    """A member's status, which it sends to every peer.

    state: as in `rendezvous.decide`. address: where TensorFlow will listen in the next generation.
    remaining: seconds until its wait for the others is over. generation: the newest that it took
    part in; restarts, saved: at the start of that one; cause: why that one ended.
    """

    state: str = "busy"
    address: str = ""
    remaining: float = float("inf")
    generation: int = 0
    restarts: int = 0
    saved: int = 0
    cause: str = ""


@dataclasses.dataclass
class _Peer:
    """A connected peer: its newest status, and when its wait for the others is over."""

    status: Status = Status()
    deadline: float = float("inf")


class Member:
    """The member of worker `rules.index`. Events add actions, and `take` returns them in order."""

    def __init__(self, rules: Rules, world: World, now: float):
        self._rules = rules
        self._world = world
        self._actions: list[Action] = []
        self._peers: dict[int, _Peer] = {}
        self._reasons: dict[int, str] = {}  # {index: why it is not connected}
        self.phase = "meeting"
        self.generation = 0  # The newest that this worker took part in.
        self._members: tuple[int, ...] = ()
        self._alive = False  # Whether there is a training process.
        self._trained = False
        self._restarts = self._saved = 0  # At the start of `generation`.
        self._cause = ""  # Why `generation` ended.
        self._stopping = 0  # The signal that requested a stop.
        self._interrupted: float | None = None  # When Ctrl-C reached this worker itself first.
        self._stop_deadline = float("inf")
        self._line = ""  # What the training process would have printed at a stop, after a reform.
        self._reforming = False
        self._finished: dict[int, int] = {}  # {index: exit code} of members that ended well.
        self._report: Exit | None = None  # The exit that this member has reported to the leader.
        self._report_deadline = float("inf")
        self._address = world.fresh_address()
        self._since = now
        self._deadline = now + rules.rendezvous_seconds

    def take(self) -> list[Action]:
        """Returns the actions since the last call."""
        actions, self._actions = self._actions, []
        return actions

    @property
    def leader(self) -> int:
        """Returns the worker that leads the gang that runs, or the workers that are meeting."""
        return self._members[0] if self._members else min([self._rules.index, *self._peers])

    @property
    def is_leader(self) -> bool:
        """Returns whether this worker leads."""
        return self._rules.index == self.leader

    @property
    def has_run(self) -> bool:
        """Returns whether this worker has taken part in a generation."""
        return self.generation > 0

    # --- events -----------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """The worker is ready to meet others."""
        self._decide(now)

    def link_up(self, index: int, now: float) -> None:
        """Worker `index` is connected, and its identity is equal to ours."""
        self._peers[index] = _Peer()
        self._reasons.pop(index, None)
        self._send_status(index, now)

    def link_down(self, index: int, reason: str, now: float) -> None:
        """The connection to worker `index` is gone."""
        if self._peers.pop(index, None) is None:
            return
        self._reasons[index] = reason
        if self.phase == "meeting":
            self._decide(now)
        elif self.phase in ("running", "finished") and index in self._members:
            if self.is_leader and self._finished.get(index) is None:
                self._lose(index, reason, None, (), now)
            elif index == self.leader:
                self._leader_is_gone(index, reason, now)

    def unreachable(self, index: int, reason: str) -> None:
        """An attempt to connect to worker `index` failed."""
        self._reasons[index] = reason

    def receive(self, index: int, message: Mapping[str, Any], now: float) -> None:
        """A message of the connected worker `index` has arrived."""
        if self.phase == "over" or index not in self._peers:
            return
        handler = {
            "status": self._on_status,
            "form": self._on_form,
            "lost": self._on_lost,
            "abort": self._on_abort,
            "reform": self._on_reform,
            "stop": self._on_stop,
            "finished": self._on_finished,
            "failed": self._on_failed,
            "found": self._on_found,
            "end": self._on_end,
        }.get(message["kind"])
        if handler:
            handler(index, message, now)

    def child_trains(self) -> None:
        """The training process has reached its loop: from now on it may have steps to save."""
        self._trained = True

    def child_ended(self, code: int, reason: str, last_lines: tuple[str, ...], now: float) -> None:
        """The training process has ended with `code`; negative: by that signal.

        reason: why its watchdog killed it, "" if it did not.
        """
        self._alive = False
        if self.phase == "meeting":
            if reason and self.is_leader:
                self._found(self._rules.index, reason)
            elif reason:
                self._send(self.leader, {"kind": "found", "reason": reason})
            self._address = self._world.fresh_address()
            self._tell_status(now)
            self._decide(now)
        elif self.phase == "running" and self._report is None:
            self._child_ended_at_work(code, reason, last_lines, now)

    def signalled(self, number: int, now: float) -> None:
        """SIGTERM (15) or SIGINT (2) has reached this worker.

        A second SIGINT ends the job without a checkpoint. It counts as the second only if this
        worker itself got the first one, PRESS_SECONDS ago or more: one press of Ctrl-C reaches
        every worker, and may reach one of them twice.
        """
        first = self._interrupted
        at_once = number == 2 and first is not None and now - first >= PRESS_SECONDS
        if number == 2 and first is None:
            self._interrupted = now
        if self._stopping and not at_once:
            return
        if self.phase == "meeting":
            for index in self._peers:
                self._send(index, _stop_message(number, trained=False))
            self._leave(
                STOPPED[number],
                f"stopped by signal {number}",
                commits.stopped_line(self._world.newest()),
            )
            return
        if self.phase == "over":
            return
        if self.is_leader:
            self._stop(number, self._trained, at_once, now)
            return
        self._begin_to_stop(number, now)
        if self._trained and not at_once:
            self._do(Ask({"ask": "stop", "signal": number}))
        self._send(self.leader, _stop_message(number, self._trained, at_once))

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.phase == "meeting":
            self._decide(now)
        elif self._report and now >= self._report_deadline:
            self._leave(self._report.code, self._report.reason, self._report.line)
        elif self.phase in ("running", "finished") and now >= self._stop_deadline:
            self._stop_deadline = float("inf")
            saved = self._world.newest()
            self._fail(
                BY_NAME["peer_lost"],
                f"worker {self._rules.index}: training did not end within "
                f"{self._rules.grace_seconds - MARGIN_SECONDS:g} s after the request to stop, so "
                f"it was killed; the steps after step {saved.step if saved else 0} are lost and "
                "will be computed again",
                (),
                now,
            )
        elif self.phase == "running" and self.is_leader:
            self._take_in_newcomers(now)

    def slept(self, seconds: float) -> None:
        """This worker itself did not run for `seconds`: no peer was late."""
        self._deadline += seconds
        self._since += seconds
        for peer in self._peers.values():
            peer.deadline += seconds

    # --- meeting ----------------------------------------------------------------------------------

    def _meet(self, cause: str, now: float) -> None:
        """Leaves the generation that ran, and waits for the others again."""
        self.phase, self._members, self._finished = "meeting", (), {}
        self._cause, self._reforming, self._trained, self._report = cause, False, False, None
        self._since, self._deadline = now, now + self._rules.rejoin_seconds
        if self._alive:
            self._do(Kill())
        else:
            self._address = self._world.fresh_address()
        self._tell_status(now)
        self._decide(now)

    def _decide(self, now: float) -> None:
        if self.phase != "meeting":
            return
        seen = {index: peer.status.state for index, peer in self._peers.items()}
        seen[self._rules.index] = "busy" if self._alive else "ready"
        deadlines = [peer.deadline for peer in self._peers.values() if peer.status.state == "ready"]
        remaining = min([self._deadline, *(deadlines if self.is_leader else [])]) - now
        decision = rendezvous.decide(
            self._rules.index, self._rules.workers, self._rules.minimum, seen, remaining
        )
        if isinstance(decision, rendezvous.Form):
            self._form(decision.members, now)
        elif isinstance(decision, rendezvous.GiveUp) and (line := self._world.finished()):
            # This worker was killed between the last step and its own end; the others have left.
            self._end(BY_NAME["done"], "the run was finished before", now, line)
        elif isinstance(decision, rendezvous.GiveUp):
            missing = rendezvous.named(decision.missing, self._rules.addresses, self._reasons)
            reason = (
                f"waited {now - self._since:.0f} s for {missing}"
                if missing
                else (f"waited {now - self._since:.0f} s for worker {min(seen)} to start the gang")
            )
            self._end(
                BY_NAME["peer_lost"],
                f"{reason}; all workers must start within --rendezvous_seconds, and a lost one "
                "must return within --rejoin_seconds. Find out why it did not, then start the job "
                "again",
                now,
            )

    def _form(self, members: tuple[int, ...], now: float) -> None:
        known = {index: peer.status for index, peer in self._peers.items()}
        known[self._rules.index] = self._status(now)
        last = max((known[index] for index in members), key=lambda status: status.generation)
        newest = self._world.newest()
        saved = newest.step if newest else 0
        restarts = rendezvous.restarts(last.restarts, last.saved, saved, first=last.generation == 0)
        if restarts > self._rules.max_restarts:
            self._end(
                BY_NAME["restart_limit"],
                f"{restarts} restarts without a new checkpoint after step {saved}, the last one "
                f"because {last.cause}: --max_restarts={self._rules.max_restarts}. Look for the "
                "cause in the log above",
                now,
            )
            return
        try:
            threads, shards = self._world.settle(len(members))
        except TrainerError as problem:
            self._end(problem.code, str(problem), now)
            return
        message = {
            "kind": "form",
            "generation": last.generation + 1,
            "members": [[index, known[index].address] for index in members],
            "threads": threads,
            "shards": shards,
            "restarts": restarts,
            "saved": saved,
        }
        if last.generation:
            self._note("restart", generation=last.generation + 1, reason=last.cause)
        self._note(
            "rendezvous",
            seconds=now - self._since,
            generation=last.generation + 1,
            members=list(members),
        )
        for index in members:
            if index != self._rules.index:
                self._send(index, message)
        self._start(message, now)

    def _on_form(self, index: int, message: Mapping[str, Any], now: float) -> None:
        takes = (
            self.phase == "meeting"
            and not self._alive
            and message["generation"] > self.generation
            and [self._rules.index, self._address] in message["members"]
        )
        if takes:
            self._start(message, now)
        else:
            self._send(
                index,
                {
                    "kind": "lost",
                    "generation": message["generation"],
                    "reason": "it was not ready",
                    "code": None,
                    "lines": [],
                },
            )

    def _start(self, message: Mapping[str, Any], now: float) -> None:
        self._members = tuple(index for index, _ in message["members"])
        self.phase, self.generation = "running", message["generation"]
        self._alive, self._trained, self._reforming, self._finished = True, False, False, {}
        self._line = ""
        self._restarts, self._saved = message["restarts"], message["saved"]
        self._say(
            f"generation {self.generation}: {len(self._members)} of {self._rules.workers} "
            f"worker(s) ({', '.join(map(str, self._members))}), {message['threads']} threads and "
            f"{message['shards']} shard(s) each"
        )
        self._do(
            Start(
                self.generation,
                tuple(address for _, address in message["members"]),
                self._members.index(self._rules.index),
                message["threads"],
                message["shards"],
            )
        )
        self._tell_status(now)

    def _status(self, now: float) -> Status:
        return Status(
            {"meeting": "busy" if self._alive else "ready"}.get(self.phase, "running"),
            self._address,
            min(self._deadline - now, LONGEST_WAIT_SECONDS),
            self.generation,
            self._restarts,
            self._saved,
            self._cause,
        )

    def _send_status(self, index: int, now: float) -> None:
        self._send(index, {"kind": "status", **self._status(now)._asdict()})

    def _tell_status(self, now: float) -> None:
        for index in self._peers:
            self._send_status(index, now)

    def _on_status(self, index: int, message: Mapping[str, Any], now: float) -> None:
        was_running = self._peers[index].status.state == "running"
        status = Status(*(message[field] for field in Status._fields))
        self._peers[index] = _Peer(status, now + status.remaining)
        if self.phase == "running" and self.is_leader:
            self._take_in_newcomers(now)
        elif self.phase == "meeting" and was_running and status.state != "running":
            # A gang at work does not count as waiting.
            self._since, self._deadline = now, now + self._rules.rejoin_seconds
            self._tell_status(now)
        self._count_met(now)
        self._decide(now)

    def _take_in_newcomers(self, now: float) -> None:
        """Makes the gang save and form again if a worker waits to join; once per generation."""
        waiting = [
            index
            for index, peer in self._peers.items()
            if index not in self._members and peer.status.state == "ready"
        ]
        if not waiting or self._reforming or self._stopping or not self._trained:
            return
        cause = f"worker {waiting[0]} joined"
        self._say(f"{cause}: the gang saves and forms again with it")
        self._tell_members({"kind": "reform", "generation": self.generation, "cause": cause})
        self._reform(cause)

    def _on_reform(self, index: int, message: Mapping[str, Any], now: float) -> None:
        if (
            self.phase == "running"
            and index == self.leader
            and message["generation"] == self.generation
        ):
            self._reform(message["cause"])

    def _reform(self, cause: str) -> None:
        self._reforming, self._cause = True, cause
        self._do(Ask({"ask": "reform"}))

    # --- losing a worker --------------------------------------------------------------------------

    def _child_ended_at_work(
        self, code: int, reason: str, last_lines: tuple[str, ...], now: float
    ) -> None:
        index = self._rules.index
        if code == BY_NAME["peer_lost"] and self._reforming:
            # It has saved; if a stop came too late for it, this worker prints its last line.
            self._line = commits.stopped_line(self._world.newest())
            code = STOPPED.get(self._stopping, code)
        if code in CLEAN:
            self.phase = "finished"
            if self.is_leader:
                self._count_finished(index, code, now)
            else:
                self._finished[index] = code
                self._send(
                    self.leader, {"kind": "finished", "generation": self.generation, "code": code}
                )
        elif code == BY_NAME["peer_lost"] and self._reforming:
            self._meet(self._cause, now)
        elif code < 0 or code == BY_NAME["peer_lost"]:
            why = reason or (
                f"its training was ended by signal {-code}"
                if code < 0
                else "its training lost the others (exit code 75)"
            )
            if self.is_leader:
                self._lose(index, why, code, last_lines, now)
            elif self._stopping:
                self._fail(
                    BY_NAME["peer_lost"],
                    f"worker {index} was lost while the job was stopping: {why}",
                    last_lines,
                    now,
                )
            else:
                self._send(
                    self.leader,
                    {
                        "kind": "lost",
                        "generation": self.generation,
                        "reason": why,
                        "code": code,
                        "lines": list(last_lines),
                    },
                )
                self._meet(f"worker {index}: {why}", now)
        else:
            self._fail(
                code, f"worker {index}: training ended with exit code {code}", last_lines, now
            )

    def _lose(
        self, index: int, reason: str, code: int | None, last_lines: Sequence[str], now: float
    ) -> None:
        """At the leader: worker `index` cannot continue this generation, so all others leave it."""
        cause = f"worker {index}: {reason}"
        self._say(f"lost {cause}" + _quoted(last_lines))
        self._note("lost", index=index, reason=reason, code=code, last_lines=list(last_lines))
        if self._stopping:
            self._end(
                BY_NAME["peer_lost"],
                f"worker {index} was lost while the job was stopping: {reason}",
                now,
            )
            return
        self._tell_members({"kind": "abort", "generation": self.generation, "cause": cause})
        self._meet(cause, now)

    def _on_lost(self, index: int, message: Mapping[str, Any], now: float) -> None:
        if (
            self.phase in ("running", "finished")
            and self.is_leader
            and message["generation"] == self.generation
            and index in self._members
        ):
            self._lose(index, message["reason"], message["code"], tuple(message["lines"]), now)

    def _on_abort(self, index: int, message: Mapping[str, Any], now: float) -> None:
        if (
            self.phase in ("running", "finished")
            and index == self.leader
            and message["generation"] == self.generation
        ):
            self._say(f"lost {message['cause']}")
            self._meet(message["cause"], now)

    def _found(self, index: int, reason: str) -> None:
        """At the leader: records why a training process was lost, found out after its loss."""
        self._say(f"worker {index}: its training was {reason}")
        self._note("lost", index=index, reason=reason, code=None, last_lines=[])

    def _on_found(self, index: int, message: Mapping[str, Any], now: float) -> None:
        if self.is_leader:
            self._found(index, message["reason"])

    def _leader_is_gone(self, index: int, reason: str, now: float) -> None:
        own = self._finished.get(self._rules.index)
        if self._report:
            self._leave(self._report.code, self._report.reason, self._report.line)
        elif self._stopping and own is not None:
            self._leave(own, f"the leader, worker {index}, left: {reason}", "")
        elif self._stopping:
            self._leave(
                BY_NAME["peer_lost"],
                f"worker {index} was lost while the job was stopping: {reason}",
                "",
            )
        else:
            self._say(f"lost worker {index}: {reason}")
            if self._rules.index < min(self._peers, default=self._rules.workers):
                self._note("lost", index=index, reason=reason, code=None, last_lines=[])
            self._meet(f"worker {index}: {reason}", now)

    # --- stopping ---------------------------------------------------------------------------------

    def _begin_to_stop(self, number: int, now: float) -> None:
        self._stopping = number
        self._stop_deadline = min(
            self._stop_deadline, now + max(1.0, self._rules.grace_seconds - MARGIN_SECONDS)
        )

    def _stop(self, number: int, trained: bool, at_once: bool, now: float) -> None:
        """At the leader: a worker was asked to stop.

        trained: whether a training process may have steps to save. at_once: without saving them.
        """
        self._begin_to_stop(number, now)
        if at_once or not trained:
            self._end(
                STOPPED[number],
                f"stopped by signal {number}",
                now,
                commits.stopped_line(self._world.newest()),
            )
            return
        self._tell_members(_stop_message(number, trained=True))
        if self._alive:
            self._do(Ask({"ask": "stop", "signal": number}))
        self._count_met(now)

    def _on_stop(self, index: int, message: Mapping[str, Any], now: float) -> None:
        number = message["signal"]
        if self.phase == "meeting":
            self._end(
                STOPPED[number],
                f"worker {index} was stopped by signal {number}",
                now,
                commits.stopped_line(self._world.newest()),
            )
        elif self.is_leader and index in self._members:
            if not self._stopping or message["at_once"]:
                # All reach their loops together, so one that has is enough.
                trained = self._trained or message["trained"]
                self._stop(number, trained, message["at_once"], now)
        elif index == self.leader:
            self._begin_to_stop(number, now)
            if self._alive:
                self._do(Ask({"ask": "stop", "signal": number}))

    # --- the end ----------------------------------------------------------------------------------

    def _count_finished(self, index: int, code: int, now: float) -> None:
        self._finished[index] = code
        if set(self._finished) == set(self._members):
            self._end(max(self._finished.values()), "all training ended", now)

    def _count_met(self, now: float) -> None:
        """At the leader: a member that saved and met again before it heard of a stop has ended."""
        if not (self._stopping and self._reforming and self.is_leader):
            return
        for index, peer in self._peers.items():
            met = peer.status.state != "running" and peer.status.generation == self.generation
            if met and index in self._members and self.phase in ("running", "finished"):
                self._count_finished(index, STOPPED[self._stopping], now)

    def _on_finished(self, index: int, message: Mapping[str, Any], now: float) -> None:
        if (
            self.phase in ("running", "finished")
            and self.is_leader
            and message["generation"] == self.generation
        ):
            self._count_finished(index, message["code"], now)

    def _fail(self, code: int, reason: str, last_lines: Sequence[str], now: float) -> None:
        """Ends the job because of this worker's training process."""
        if self.is_leader:
            self._end(code, reason + _quoted(last_lines), now)
            return
        self._send(
            self.leader,
            {
                "kind": "failed",
                "generation": self.generation,
                "code": code,
                "reason": reason,
                "lines": list(last_lines),
            },
        )
        self._report = Exit(code, reason + _quoted(last_lines))
        self._report_deadline = now + ANSWER_SECONDS
        if self._alive:
            self._do(Kill())

    def _on_failed(self, index: int, message: Mapping[str, Any], now: float) -> None:
        if (
            self.phase in ("running", "finished")
            and self.is_leader
            and message["generation"] == self.generation
        ):
            self._note(
                "lost",
                index=index,
                reason=message["reason"],
                code=message["code"],
                last_lines=message["lines"],
            )
            self._end(
                message["code"], message["reason"] + _quoted(message["lines"]), now, cause=index
            )

    def _end(
        self, code: int, reason: str, now: float, line: str = "", cause: int | None = None
    ) -> None:
        """Ends the job for all connected workers if this one leads; else for this one alone.

        cause: the worker that the end is due to; None: this one.
        """
        if self.is_leader:
            if self.has_run or code != BY_NAME["usage"]:
                self._note(
                    "gang_end",
                    code=code,
                    reason=reason,
                    index=self._rules.index if cause is None else cause,
                )
            for index in self._peers:
                self._send(index, {"kind": "end", "code": code, "reason": reason, "line": line})
        self._leave(code, reason, line)

    def _on_end(self, index: int, message: Mapping[str, Any], now: float) -> None:
        if self.phase == "meeting" or index == self.leader:
            self._leave(message["code"], message["reason"], message["line"])

    def refuse_all(self, reason: str, now: float) -> None:
        """Ends the job before it begins, because a worker differs from this one."""
        for index in self._peers:
            self._send(
                index, {"kind": "end", "code": BY_NAME["usage"], "reason": reason, "line": ""}
            )
        self._leave(BY_NAME["usage"], reason, "")

    def _leave(self, code: int, reason: str, line: str) -> None:
        if self._alive:
            self._do(Kill())
        self.phase = "over"
        self._do(Exit(code, reason, line or (self._line if code in STOPPED.values() else "")))

    # --- actions ----------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _send(self, index: int, message: dict[str, Any]) -> None:
        self._do(Send(index, message))

    def _tell_members(self, message: dict[str, Any]) -> None:
        for index in self._members:
            if index != self._rules.index:
                self._send(index, message)

    def _note(self, event: str, **fields: Any) -> None:
        self._do(Note(event, fields))

    def _say(self, text: str) -> None:
        self._do(Say(text))


def _stop_message(number: int, trained: bool, at_once: bool = False) -> dict[str, Any]:
    return {"kind": "stop", "signal": number, "trained": trained, "at_once": at_once}


def _quoted(lines: Sequence[str]) -> str:
    return "; its last lines:\n" + "\n".join(f"  | {line}" for line in lines) if lines else ""

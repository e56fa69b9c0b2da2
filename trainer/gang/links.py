"""Connections between the supervisors of a job: TCP, sealed lines of JSON, a beat every second.

Every worker listens on its own address and dials all workers of lower index until they answer, so
each pair has one connection. Names of pods appear in the DNS some time after the pods, and an
answer "no such name" or an old one is kept for half a minute. So a worker also says its IP address,
if it knows it, worker 0 passes it on, and worker 0 can have another name. A connection begins with

    greet    a nonce, in the open; the caller first
    prove    the first sealed line (see `proof`): the sender holds the token of the job
    hello    who the sender is, and to whom; the answer to the caller may be `refuse` instead

A stranger, which is every program that does not hold the token, gets a greeting and nothing else. A
caller that is a stranger, a worker of another job or a second worker of the same index never
becomes a link. It does no harm beyond one line in the log for each address and minute.
"""

import asyncio
import dataclasses
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from trainer.exit_codes import UsageError
from trainer.gang import messages, proof
from trainer.gang.roster import Roster, host_and_port, is_loopback, joined

log = logging.getLogger(__name__)

PROGRAM = "rnn-trainer"
PROTOCOL = 3
# A peer that is silent for so long is lost. A network that is cut for half of that costs nothing.
SILENCE_SECONDS = 10.0
BEAT_SECONDS = 1.0
HELLO_SECONDS = 10.0  # From the connection to the end of `hello`, however slowly it is sent.
CONNECT_SECONDS = 3.0
REDIAL_SECONDS = 0.3
BIND_SECONDS = 10.0  # A worker that is about to end may still hold the port.
LONGEST_LINE = 1 << 18  # The addresses of a gang of thousands fit.
LONGEST_GREETING = 1000
MOST_UNPROVEN = 32  # Connections that have not proved anything yet; then the oldest is closed.
STRANGER_SECONDS = 60.0  # Between two lines of the log about the same address,
MOST_STRANGERS = 100  # and the addresses that are told apart.


@dataclasses.dataclass(frozen=True)
class Hello:
    """How a worker introduces itself.

    instance: unique to this process. job: differs between jobs. identity: see `identity.of`. ip: an
    address at which it is reached, "" if it does not know one.
    """

    index: int
    instance: str
    job: str
    identity: Mapping[str, str]
    ip: str = ""


class Listener(Protocol):
    """Receives the events of the links."""

    def differs(self, hello: Hello) -> str:
        """Returns how the worker of `hello` differs from this one; "" if it may be linked."""

    def link_up(self, index: int) -> None:
        """Worker `index` is connected."""

    def link_down(self, index: int, reason: str) -> None:
        """The link to worker `index` has ended."""

    def received(self, index: int, message: dict[str, Any]) -> None:
        """Worker `index` has sent `message`."""

    def unreachable(self, index: int, reason: str) -> None:
        """An attempt to connect to worker `index` has failed; another one follows."""

    def refused(self, index: int, reason: str) -> None:
        """Worker `index` refuses this one for good."""


class _Wire:
    """A connection, which carries messages once both ends have greeted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer
        self._session: proof.Session | None = None

    async def greet(self, token: bytes, calls: bool) -> None:
        """Exchanges greetings and proofs with the other end; the caller (`calls`) goes first.

        Raises _Strange, OSError.
        """
        own = proof.fresh_nonce()
        greeting = {"kind": "greet", "program": PROGRAM, "protocol": PROTOCOL, "nonce": own}
        if calls:
            self.writer.write(messages.line(greeting) + b"\n")
        found = await self._hear_greeting()
        if not calls:
            self.writer.write(messages.line(greeting) + b"\n")
        self._session = proof.Session(token, own, found["nonce"], calls)
        if calls:
            self.say({"kind": "prove"})
        try:
            await self.hear("prove")
        except ConnectionResetError:
            if not calls:
                raise
            # It has not proved anything itself, so this is no more than a good guess.
            raise _Strange(
                "a program that did not accept our proof. Give all workers of a job the same "
                "--gang_token_file"
            ) from None
        except ValueError as problem:
            raise _Strange(f"a program that sent {problem}") from None
        if not calls:
            self.say({"kind": "prove"})

    def say(self, message: Mapping[str, Any]) -> None:
        if not self.writer.is_closing():
            self.writer.write(self._session.seal(messages.line(message)))

    async def hear(self, *kinds: str) -> dict[str, Any]:
        """Returns the next message, one of `kinds` if any are given.

        Raises ValueError if it is wrong or too long, OSError at the end of the connection.
        """
        message = messages.parse(self._session.opened(await self._read_line()))
        if kinds and message["kind"] not in kinds:
            raise ValueError(f"{message['kind']} instead of {' or '.join(kinds)}")
        return message

    async def _hear_greeting(self) -> dict[str, Any]:
        try:
            line = await self._read_line(LONGEST_GREETING)
        except ValueError:
            raise _Strange("a program that sent an endless line") from None
        try:
            found = messages.parse(line)
            if (found["kind"], found["program"]) != ("greet", PROGRAM):
                raise ValueError
        except ValueError:
            raise _Strange(f"a program that sent {line[:40]!r}") from None
        if found["protocol"] != PROTOCOL:
            raise _Strange(
                f"a worker that uses protocol {found['protocol']}; this one uses {PROTOCOL}. Start "
                "all workers with the same version"
            )
        return found

    async def _read_line(self, longest: int = LONGEST_LINE) -> bytes:
        line = await self.reader.readline()
        if len(line) > longest:
            raise ValueError("a line that is too long")
        if not line.endswith(b"\n"):
            raise ConnectionResetError(0, "the connection was closed without an answer")
        return line


class _Link:
    """An established connection to the worker of `hello`."""

    def __init__(self, hello: Hello, wire: _Wire):
        self.hello, self.wire = hello, wire
        self.heard = time.monotonic()

    def send(self, message: Mapping[str, Any]) -> None:
        self.wire.say(message)


class Links:
    """The links of one worker. It calls `listener` in the event loop.

    silence: seconds after which a peer is lost. token: returns the token of the job.
    """

    def __init__(
        self,
        roster: Roster,
        own: Hello,
        listener: Listener,
        silence: float = SILENCE_SECONDS,
        token: Callable[[], bytes] = lambda: b"",
    ):
        self._roster = roster
        self._own = own
        self._listener = listener
        self._silence = silence
        self._token = token
        self._links: dict[int, _Link] = {}
        self._ips: dict[int, str] = {}  # As the workers have said.
        self._tasks: set[asyncio.Task] = set()
        self._refusals: set[asyncio.StreamWriter] = set()
        self._unproven: dict[asyncio.StreamWriter, None] = {}  # In order of their coming.
        self._strangers: dict[str, float] = {}  # {address: when the log named it}
        self._server: asyncio.Server | None = None
        self._refused_since: dict[int, float] = {}
        self._closing = False

    async def open(self) -> None:
        """Listens and starts to dial. Raises UsageError if the port of this worker stays taken."""
        if self._roster.workers == 1:
            return
        host, port = host_and_port(self._roster.addresses[self._own.index])
        deadline = time.monotonic() + BIND_SECONDS
        while self._server is None:
            try:
                self._server = await asyncio.start_server(
                    self._accept,
                    "127.0.0.1" if is_loopback(host) else None,
                    port,
                    limit=LONGEST_LINE,
                )
            except OSError as problem:
                if time.monotonic() >= deadline:
                    raise UsageError(
                        f"port {port} of worker {self._own.index} cannot be used: "
                        f"{problem.strerror}. A worker with this index or another program may "
                        "already run here. End it, or name another port in --hosts."
                    ) from None
                await asyncio.sleep(REDIAL_SECONDS)
        for index in range(self._own.index):
            self._spawn(self._dial(index))
        self._spawn(self._beat())

    def send(self, index: int, message: Mapping[str, Any]) -> None:
        """Sends `message` to worker `index` if it is connected."""
        if index in self._links and not self._closing:
            self._links[index].send(message)

    def slept(self, seconds: float) -> None:
        """This process itself did not run for `seconds`: they do not count as silence of peers."""
        for link in self._links.values():
            link.heard += seconds

    async def close(self, seconds: float = 2.0) -> None:
        """Delivers what was sent, then closes all links, after `seconds` at the latest."""
        self._closing = True
        if self._server:
            self._server.close()
        for link in self._links.values():
            # Closing at once, with beats of the peer unread, would reset the connection and lose
            # our last messages.
            writer = link.wire.writer
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
        deadline = time.monotonic() + seconds
        while (self._links or self._refusals) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- both ends --------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine) -> None:
        """Runs `work` as a task. An exception is a bug and reaches the loop's exception handler."""

        def ended(task: asyncio.Task) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.result()

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    async def _serve(self, link: _Link) -> None:
        """Receives from a link until it ends."""
        index = link.hello.index
        self._links[index] = link
        self._learn([[index, link.hello.ip]] if link.hello.ip else [])
        self._listener.link_up(index)
        while self._links.get(index) is link:
            try:
                message = await link.wire.hear()
            except ConnectionResetError as problem:
                # Without a number it is ours: the peer has closed the connection in order.
                self._drop(
                    link, _in_words(problem) if problem.errno else "it closed the connection"
                )
            except OSError as problem:
                self._drop(link, _in_words(problem))
            except ValueError as problem:
                self._drop(link, f"it sent a line that is not a message: {problem}")
            else:
                link.heard = time.monotonic()
                if message["kind"] == "known":
                    self._learn(message["ips"])
                elif message["kind"] != "beat":
                    self._listener.received(index, message)

    def _learn(self, ips: list[list]) -> None:
        """Keeps IP addresses of workers, [index, ip] each; worker 0 tells all others."""
        self._ips.update(ips)
        if self._own.index == 0 and ips:
            for index in self._links:
                self.send(index, {"kind": "known", "ips": [[i, ip] for i, ip in self._ips.items()]})

    def _drop(self, link: _Link, reason: str) -> None:
        """Ends a link at once."""
        if self._links.get(link.hello.index) is link:
            del self._links[link.hello.index]
            link.wire.writer.transport.abort()
            self._listener.link_down(link.hello.index, reason)

    async def _beat(self) -> None:
        while not self._closing:
            await asyncio.sleep(BEAT_SECONDS)
            for link in list(self._links.values()):
                self.send(link.hello.index, {"kind": "beat"})
                if time.monotonic() - link.heard > self._silence:
                    self._drop(link, f"silent for {self._silence:g} s")

    async def _greet(self, wire: _Wire, calls: int | None = None) -> tuple[Hello, int]:
        """Returns the hello of the other end, and to which worker it says it.

        The other end has proved that it holds the token. calls: the worker that this one calls, if
        it does. Raises _Strange, _Refused, OSError.
        """
        await wire.greet(self._token(), calls is not None)
        self._unproven.pop(wire.writer, None)
        try:
            if calls is None:
                found = await wire.hear("hello")
            else:
                self._introduce(wire, calls)
                found = await wire.hear("hello", "refuse")
        except ValueError as problem:
            raise _Strange(f"a program that sent a wrong hello: {problem}") from None
        if found.pop("kind") == "refuse":
            raise _Refused(found["reason"], found["final"])
        to = found.pop("to")
        return Hello(**found), to

    def _introduce(self, wire: _Wire, to: int) -> None:
        wire.say({"kind": "hello", "to": to, **dataclasses.asdict(self._own)})

    # --- the end that listens ---------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(self._unproven) >= MOST_UNPROVEN:
            # A worker proves itself within milliseconds, so the oldest is the least likely one.
            oldest = next(iter(self._unproven))
            del self._unproven[oldest]
            oldest.transport.abort()
            self._log_stranger(oldest, "too many connections that prove nothing")
        self._unproven[writer] = None
        self._spawn(self._answer(_Wire(reader, writer)))

    async def _answer(self, wire: _Wire) -> None:
        try:
            hello, to = await asyncio.wait_for(self._greet(wire), HELLO_SECONDS)
            problem, final = (
                ("it is about to leave", False) if self._closing else self._objection(hello, to)
            )
            if problem:
                await self._refuse(wire, problem, final)
            else:
                self._introduce(wire, hello.index)
                await self._serve(_Link(hello, wire))
        except _Strange as problem:
            self._log_stranger(wire.writer, str(problem))
        except (OSError, asyncio.TimeoutError, _Refused):
            pass  # The caller has left, sent nothing, or reports the refusal itself.
        finally:
            self._unproven.pop(wire.writer, None)
            wire.writer.transport.abort()

    def _log_stranger(self, writer: asyncio.StreamWriter, what: str) -> None:
        """Logs a caller that is not a worker of this job, once for each address and minute."""
        now = time.monotonic()
        self._strangers = {
            address: told
            for address, told in self._strangers.items()
            if now - told < STRANGER_SECONDS
        }
        peer = writer.get_extra_info("peername")
        address = str(peer[0]) if peer else "an address that has left"
        if address in self._strangers or len(self._strangers) >= MOST_STRANGERS:
            return
        self._strangers[address] = now
        log.warning(
            "a connection to our port from %s is not from a worker of this job: %s; ignored, and "
            "so are others from there for the next %g s, without another line",
            address,
            what,
            STRANGER_SECONDS,
        )

    async def _refuse(self, wire: _Wire, reason: str, final: bool) -> None:
        self._refusals.add(wire.writer)
        try:
            wire.say({"kind": "refuse", "reason": reason, "final": final})
            wire.writer.write_eof()
            await asyncio.wait_for(wire.reader.read(1), HELLO_SECONDS)  # Until it has been read.
        finally:
            self._refusals.discard(wire.writer)

    def _objection(self, hello: Hello, to: int) -> tuple[str, bool]:
        """Returns (why the worker of `hello` cannot be linked, whether that is final).

        Returns ("", False) if it can be linked. to: the worker that it calls.
        """
        if hello.job != self._own.job:
            log.warning("a worker of another job (%s) connected to our port: refused", hello.job)
            return (
                f"worker {self._own.index} at this address belongs to another job: {self._own.job} "
                f"there, {hello.job} here. Give each job its own addresses",
                True,
            )
        if to != self._own.index:  # An address changes hands, and a name may be an old one.
            return f"worker {self._own.index} is there instead", False
        if not self._own.index < hello.index < self._roster.workers:
            log.warning(
                "a worker with index %d connected to worker %d: refused",
                hello.index,
                self._own.index,
            )
            return (
                f"worker {self._own.index} does not expect a worker with index {hello.index}",
                True,
            )
        difference = self._listener.differs(hello)
        if difference:
            return difference, True
        known = self._links.get(hello.index)
        if known and known.hello.instance == hello.instance:
            self._drop(known, "it connected again")
        elif known and time.monotonic() - known.heard < self._silence:
            # It may replace a worker that ended without closing its link. Then that link is silent,
            # and soon counts as lost.
            since = self._refused_since.setdefault(hello.index, time.monotonic())
            final = time.monotonic() - since > 2 * self._silence
            return (
                f"a worker with index {hello.index} is already connected. Give each worker its own "
                "index",
                final,
            )
        elif known:
            self._drop(known, f"silent, and another worker with index {hello.index} connected")
        self._refused_since.pop(hello.index, None)
        return "", False

    # --- the end that dials -----------------------------------------------------------------------

    def _places(self, index: int) -> list[tuple[str, int]]:
        """Returns where worker `index` may be reached: (host, port), the best place first."""
        host, port = host_and_port(self._roster.addresses[index])
        places = [(self._ips[index], port)] if index in self._ips else []
        if index == 0 and self._roster.chief:
            places.insert(0, host_and_port(self._roster.chief))
        return [*places, (host, port)]

    async def _dial(self, index: int) -> None:
        told, turns = "", itertools.count()
        while not self._closing:
            places = self._places(index)
            place = places[next(turns) % len(places)]
            where = "" if place == places[-1] else f" at {joined(*place)}"
            try:
                wire = _Wire(*await _connect(*place))
                try:
                    hello, _ = await asyncio.wait_for(self._greet(wire, index), HELLO_SECONDS)
                    if (hello.job, hello.index) != (self._own.job, index):
                        raise _Strange("a worker of another job")
                    if not self._listener.differs(hello):
                        await self._serve(_Link(hello, wire))
                finally:
                    wire.writer.transport.abort()
            except _Refused as refusal:
                self._listener.unreachable(index, f"{refusal}{where}")
                if refusal.final:
                    self._listener.refused(index, str(refusal))
            except _Strange as problem:
                reason = f"answered by {problem}{where}"
                if reason != told:
                    # At the end of the wait there may be nobody any more, and a worse reason.
                    log.warning("worker %d at %s: %s", index, self._roster.addresses[index], reason)
                    told = reason
                self._listener.unreachable(index, reason)
            except asyncio.TimeoutError:
                self._listener.unreachable(index, f"no answer{where}")
            except OSError as problem:
                self._listener.unreachable(index, f"{_in_words(problem)}{where}")
            await asyncio.sleep(REDIAL_SECONDS)


class _Strange(Exception):
    """The peer has not shown that it is a worker of this job."""


class _Refused(Exception):
    """The peer refuses this worker. final: whether it makes no sense to try again."""

    def __init__(self, reason: str, final: bool):
        super().__init__(reason)
        self.final = final


async def _connect(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to the first address of `host` that answers.

    Raises OSError or asyncio.TimeoutError.
    """
    problem: Exception = OSError(0, "the name has no address")
    for address in await _addresses(host):
        try:
            return await asyncio.wait_for(
                asyncio.open_connection(address, port, limit=LONGEST_LINE), CONNECT_SECONDS
            )
        except (OSError, asyncio.TimeoutError) as failure:
            problem = failure
    raise problem


async def _addresses(host: str) -> list[str]:
    """Returns the numeric addresses of `host`.

    The interpreter waits at its exit for the threads of asyncio's own look-up, so a name server
    that does not answer would delay a stop. This look-up runs in a daemon thread.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def deliver(addresses: list[str], problem: OSError | None) -> None:
        if not answer.done():
            answer.set_exception(problem) if problem else answer.set_result(addresses)

    def look_up() -> None:
        addresses, problem = [], None
        try:
            addresses = list(
                dict.fromkeys(
                    entry[4][0] for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                )
            )
        except OSError as failure:
            problem = failure
        try:
            loop.call_soon_threadsafe(deliver, addresses, problem)
        except RuntimeError:
            pass  # The event loop has ended.

    threading.Thread(target=look_up, daemon=True).start()
    return await answer


def _in_words(problem: OSError) -> str:
    # asyncio's text is "Connect call failed ('127.0.0.1', 2222)"; that of the system is the reason.
    by_system = problem.errno and problem.errno > 0
    return (os.strerror(problem.errno) if by_system else problem.strerror or str(problem)).lower()

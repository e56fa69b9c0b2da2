"""A request to stop: a signal makes it at any time, the program answers at the next safe place.

The handlers are installed before TensorFlow is imported, because until then SIGTERM would kill the
process at once. SIGHUP, which a process gets when its terminal is closed, means the same as
SIGTERM, unless the process was started to ignore it (nohup).
"""

import contextlib
import logging
import signal
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

from trainer import streams
from trainer.channel import Channel
from trainer.exit_codes import BY_NAME

log = logging.getLogger(__name__)

# Save, exit and form the gang again with a different number of workers: what a supervisor asks for.
# The number is that of a signal that nobody sends for it, because a StopRequest keeps it as one.
MEET_AGAIN = signal.SIGHUP
_EXIT_CODES = {
    signal.SIGINT: BY_NAME["interrupted"],
    signal.SIGTERM: BY_NAME["terminated"],
    MEET_AGAIN: BY_NAME["peer_lost"],
}


def listened() -> tuple[signal.Signals, ...]:
    """Returns the signals that ask a process to stop; SIGHUP is not among them under nohup."""
    hung_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGINT, signal.SIGTERM, *hung_up)


def meaning(number: int) -> signal.Signals:
    """Returns the signal that a signal of `listened` counts as."""
    return signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)


def pause_together(pause: Callable[[], None], resume: Callable[[], None]) -> None:
    """Makes Ctrl-Z stop other processes with this one: `pause` before it stops, `resume` after.

    Processes in other sessions do not get the signal of the terminal.
    """

    def on_signal(number: int, frame: types.FrameType | None) -> None:
        pause()
        # Sent to the process, it would let this thread run on for a moment.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        resume()

    if signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:  # Else the shell has no jobs.
        signal.signal(signal.SIGTSTP, on_signal)


class StopRequest:
    """A request to stop. The first SIGINT, SIGTERM or SIGHUP makes it; a second SIGINT interrupts.

    `asked` is true from the first signal on. Several workers must stop at the same step, so the
    loop uses `agreed`: it is true from the first `agree` that finds any worker asked. A second
    SIGINT raises KeyboardInterrupt.
    """

    def __init__(self, channel: Channel | None = None):
        """`channel`: through which a supervisor may make the request instead of a signal."""
        self.signal: signal.Signals | None = None
        self.agreed = False
        self._channel = channel
        self._interrupted = False
        self._terminals: tuple[int, ...] = ()

    @classmethod
    def on_signals(cls, channel: Channel | None = None) -> "StopRequest":
        """Returns a request that a signal of `listened` or the supervisor of `channel` makes."""
        stop = cls(channel)
        stop.listen()
        return stop

    def listen(self) -> None:
        """Installs the signal handlers."""
        self._terminals = streams.terminals()
        for number in listened():
            signal.signal(number, self._on_signal)
        # A process inherits what its parent blocks.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, listened())

    def take_sigterm(self) -> None:
        """Has a thread of its own take every SIGTERM of this process from now on.

        A strategy of several workers installs a SIGTERM handler of TensorFlow's own, which takes
        the signal and tells nobody. A signal that all threads block reaches no handler, and the
        thread waits for it. Threads inherit what is blocked: those that were started before must
        block it too, so they are started under `sigterm_blocked`.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._wait_for_sigterm, name="sigterm", daemon=True).start()

    def _wait_for_sigterm(self) -> None:
        while True:
            self._on_signal(signal.sigwait({signal.SIGTERM}), None)

    @property
    def asked(self) -> bool:
        """Returns whether a signal or the supervisor has made the request."""
        if (
            self.signal in (None, MEET_AGAIN)
            and self._channel
            and (request := self._channel.asked())
        ):
            asked = MEET_AGAIN if request["ask"] == "reform" else signal.Signals(request["signal"])
            if asked != self.signal:
                log.info(
                    "%s requested: stopping after the current loop, with a checkpoint",
                    "a new rendezvous" if asked == MEET_AGAIN else "a stop",
                )
            self.signal = asked
        return self.signal is not None

    def agree(self, everyones: Callable[[float], Iterable[float]]) -> bool:
        """Returns whether any worker was asked to stop; the answer is the same on all workers.

        everyones(number): sends this worker's number and returns the numbers of all workers, each
        from the same place in its loop.
        """
        # The greatest number: SIGTERM (15) before SIGINT (2) before meeting again (1).
        asked = max(everyones(self.signal if self.asked else 0))
        if asked and not self.agreed:
            self.signal, self.agreed = signal.Signals(int(asked)), True
        return self.agreed

    @property
    def exit_code(self) -> int:
        """Returns the exit code of a process that stopped on this request."""
        return _EXIT_CODES[self.signal]

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
        if self._interrupted and number == signal.SIGINT:
            # A third one ends the process, whatever it is doing.
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.signal = self.signal or meaning(number)
        if number == signal.SIGHUP:
            streams.leave(self._terminals)  # Else every line that is printed would fail.
        log.info(
            "%s: stopping after the current loop, with a checkpoint%s",
            signal.Signals(number).name,
            "; press Ctrl-C again to stop without one" if number == signal.SIGINT else "",
        )


@contextlib.contextmanager
def sigterm_blocked() -> Iterator[None]:
    """Lets SIGTERM wait until the end of the block; threads started in it never take the signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unwind_on_sigterm() -> None:
    """Makes SIGTERM and SIGHUP raise SystemExit.

    So a short command removes what it has half written.
    """
    terminals = streams.terminals()

    def on_signal(number: int, frame: types.FrameType | None) -> NoReturn:
        streams.leave(terminals)
        raise SystemExit(_EXIT_CODES[meaning(number)])

    for number in listened():
        if number != signal.SIGINT:
            signal.signal(number, on_signal)

"""A request to stop, made by a signal at any time and answered by the program at the next place
where that is safe.

The handlers are installed before TensorFlow is imported: until then SIGTERM would kill the process
at once.
"""

import logging
import signal
from collections.abc import Callable, Iterable

from trainer.channel import Channel
from trainer.exit_codes import BY_NAME

log = logging.getLogger(__name__)

# SIGHUP stands for the wish of a supervisor that the workers leave, with a checkpoint, to meet
# again in another number.
MEET_AGAIN = signal.SIGHUP
_EXIT_CODES = {
    signal.SIGINT: BY_NAME["interrupted"],
    signal.SIGTERM: BY_NAME["terminated"],
    MEET_AGAIN: BY_NAME["peer_lost"],
}


class StopRequest:
    """`asked` turns true with the first SIGINT or SIGTERM; a second SIGINT raises
    KeyboardInterrupt.

    Several workers must stop at one step, so the loop goes by `agreed`, which turns true with the
    first `agree` that shows that some worker was asked.
    """

    def __init__(self, channel: Channel | None = None):
        """`channel`: where a supervisor may ask, in the place of a signal."""
        self.signal: signal.Signals | None = None
        self.agreed = False
        self._channel = channel
        self._interrupted = False

    @classmethod
    def on_signals(cls, channel: Channel | None = None) -> "StopRequest":
        """A request that SIGINT and SIGTERM of this process make, or the supervisor at the other
        end of `channel`.
        """
        stop = cls(channel)
        stop.listen()
        return stop

    def listen(self) -> None:
        """Takes the signals; once more after anything that may have taken them away, as a strategy
        of several workers does.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    @property
    def asked(self) -> bool:
        if (
            self.signal in (None, MEET_AGAIN)
            and self._channel
            and (request := self._channel.asked())
        ):
            asked = MEET_AGAIN if request["ask"] == "reform" else signal.Signals(request["signal"])
            if asked != self.signal:
                log.info(
                    "asked to %s: stopping after the current loop, with a checkpoint",
                    "meet the other workers again" if asked == MEET_AGAIN else "stop",
                )
            self.signal = asked
        return self.signal is not None

    def agree(self, everyones: Callable[[float], Iterable[float]]) -> bool:
        """Whether some worker was asked to stop, the same answer on all.

        everyones(number): the numbers that all workers gave at this moment of their loops.
        """
        # The greatest number: SIGTERM (15) before SIGINT (2) before meeting again (1).
        asked = max(everyones(self.signal if self.asked else 0))
        if asked and not self.agreed:
            self.signal, self.agreed = signal.Signals(int(asked)), True
        return self.agreed

    @property
    def exit_code(self) -> int:
        """What a process that stopped on this request exits with."""
        return _EXIT_CODES[self.signal]

    def _on_signal(self, number, frame):
        if self._interrupted and number == signal.SIGINT:
            # A third one ends the process, whatever it is at.
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.signal = self.signal or signal.Signals(number)
        log.info(
            "%s: stopping after the current loop, with a checkpoint%s",
            signal.Signals(number).name,
            "; once more to stop without one" if number == signal.SIGINT else "",
        )


def unwind_on_sigterm() -> None:
    """Makes SIGTERM end this process as an exception does, so that what was half written is
    removed: for short commands.
    """

    def on_signal(number, frame):
        raise SystemExit(_EXIT_CODES[number])

    signal.signal(signal.SIGTERM, on_signal)

"""A request to stop, made by a signal at any time and answered by the program at the next place where that is safe.

The handlers are installed before TensorFlow is imported: until then SIGTERM would kill the process at once.
"""

import logging
import signal

from trainer.exit_codes import BY_NAME

log = logging.getLogger(__name__)

_EXIT_CODES = {signal.SIGINT: BY_NAME["interrupted"], signal.SIGTERM: BY_NAME["terminated"]}


class StopRequest:
    """`asked` turns true with the first SIGINT or SIGTERM; a second SIGINT raises KeyboardInterrupt."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self._interrupted = False

    @classmethod
    def on_signals(cls) -> "StopRequest":
        """A request that SIGINT and SIGTERM of this process make."""
        stop = cls()
        for number in _EXIT_CODES:
            signal.signal(number, stop._on_signal)
        return stop

    @property
    def asked(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a process that stopped on this request exits with."""
        return _EXIT_CODES[self.signal]

    def _on_signal(self, number, frame):
        if self._interrupted and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)  # A third one ends the process, whatever it is at.
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.signal = self.signal or signal.Signals(number)
        log.info("%s: stopping after the current loop, with a checkpoint%s", signal.Signals(number).name,
                 "; once more to stop without one" if number == signal.SIGINT else "")


def unwind_on_sigterm() -> None:
    """Makes SIGTERM end this process as an exception does, so that what was half written is removed: for short commands."""
    def on_signal(number, frame):
        raise SystemExit(_EXIT_CODES[number])

    signal.signal(signal.SIGTERM, on_signal)

"""Recordings in folders, a class for each folder, as log-mel frames.

Files are .wav with one channel of 16-bit PCM, all of one rate. A frame is the logarithm of the mel
bands of a window: magnitudes of the short-time Fourier transform (Hann window), in triangular bands
from 0 Hz to half the rate, plus 1e-6. Windows that do not fit whole at the end are left out.
"""

import os
import wave
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from trainer.exit_codes import DataError, UsageError
from trainer.prepare import folders, raw_files

ENDING = ".wav"
_FLOOR = 1e-6
_WIDTH = 2  # Bytes of a sample.


def check_names(paths: Sequence[str]) -> None:
    """Raises DataError if a file of a folder of recordings is no .wav."""
    for path in paths:
        if not path.lower().endswith(ENDING):
            raise DataError(
                f"{path}: is no {ENDING} file, but other files of these folders are. Convert it "
                f"(sox FILE -b 16 -c 1 NEW{ENDING}), or move it away."
            )


def are_in(folder: str) -> bool:
    """Returns whether a file below `folder` is a recording."""
    return any(_below(folder))


def _below(folder: str) -> Iterator[str]:
    """Yields the paths of the recordings below a folder, but not what `folders` ignores."""
    for place, inside, files in os.walk(folder):
        inside[:] = [name for name in inside if not folders.is_ignored(name)]
        for name in files:
            if name.lower().endswith(ENDING) and not folders.is_ignored(name):
                yield os.path.join(place, name)


class LogMel:
    """Makes frames of recordings.

    rate: samples a second; 0 until the first recording has told it.
    """

    def __init__(self, settings: Mapping[str, float]):
        """settings: sample_rate (0: that of the first recording), window_ms, hop_ms, mel_bands."""
        self._settings, self._first = settings, None
        self.rate = settings["sample_rate"]
        self._mel = None

    def open(self, path: str) -> None:
        """Takes the rate of a recording, unless it is set; raises as `frames`."""
        self._samples(path)

    def frames(self, path: str) -> np.ndarray:
        """Returns the frames of a recording, float32 [windows, bands].

        Raises:
          DataError: the file is damaged, of another rate, width or number of channels, or shorter
            than a window.
          UsageError: a window is shorter than two samples, a step shorter than one, or there are
            too many bands.
        """
        samples = self._samples(path)
        if self._mel is None:
            self._set_up(path, len(samples))
        self._check_length(path, len(samples))
        signal = tf.constant(samples.astype(np.float32) / 2**15)
        spectrum = tf.abs(tf.signal.stft(signal, self._window, self._hop, self._transform))
        return tf.math.log(tf.matmul(spectrum, self._mel) + _FLOOR).numpy()

    def _check_length(self, path: str, samples: int) -> None:
        """Raises DataError if a recording is shorter than a window."""
        if samples < self._window:
            raise DataError(
                f"{path}: {samples} samples, but a window has {self._window} "
                f"(--window_ms={self._settings['window_ms']}), so there is not one frame. Remove "
                "it, or use a shorter window."
            )

    def _set_up(self, path: str, samples: int) -> None:
        """Computes what all recordings share, from the rate, for the first of them."""
        window, hop, bands = (self._settings[name] for name in ("window_ms", "hop_ms", "mel_bands"))
        self._window, self._hop = round(window * self.rate / 1000), round(hop * self.rate / 1000)
        if self._window < 2 or self._hop < 1:
            raise UsageError(
                f"--window_ms={window} --hop_ms={hop}: are {self._window} and {self._hop} samples "
                f"at {self.rate} a second, but must be at least 2 and 1. Raise them."
            )
        self._check_length(path, samples)  # So a damaged rate asks for no memory.
        self._transform = 1 << (self._window - 1).bit_length()
        self._mel = tf.signal.linear_to_mel_weight_matrix(
            bands, self._transform // 2 + 1, self.rate, 0.0, self.rate / 2
        )
        if (empty := int((tf.reduce_max(self._mel, 0) == 0).numpy().sum())) > 0:
            raise UsageError(
                f"--mel_bands={bands}: {empty} of them lie between the frequencies of a window of "
                f"{self._window} samples, so they would be constant. Lower it, or raise "
                f"--window_ms={window}."
            )

    def _samples(self, path: str) -> np.ndarray:
        """Returns the samples of a file, int16."""
        raw_files.check_hash(path)
        try:
            with wave.open(path, "rb") as file:
                channels, width, rate, count, *_ = file.getparams()
                self._check(path, channels, width, rate)
                content = file.readframes(count)
        except DataError:
            raise
        except Exception as problem:  # A damaged header may raise nearly anything.
            why = str(problem) or "it ends early"
            raise DataError(
                f"{path}: not a .wav file of PCM samples, or damaged ({why})"
                ". Convert it (sox FILE -b 16 -e signed -c 1 NEW.wav), or copy it again."
            ) from None
        if len(content) < count * _WIDTH:
            raise DataError(
                f"{path}: {len(content) // _WIDTH} samples, but its header says {count}: it is cut "
                "short. Copy it again."
            )
        return np.frombuffer(content, "<i2")

    def _check(self, path: str, channels: int, width: int, rate: int) -> None:
        """Raises DataError if the recording is not as all of them must be."""
        if width != _WIDTH:
            raise DataError(
                f"{path}: {8 * width} bits a sample, but it must be 16-bit PCM. Convert it "
                "(sox FILE -b 16 NEW.wav)."
            )
        if channels != 1:
            raise DataError(
                f"{path}: {channels} channels, but it must be one. Mix them (sox FILE -c 1 "
                "NEW.wav)."
            )
        self.rate = self.rate or rate
        self._first = self._first or path
        if rate != self.rate:
            named = self._settings["sample_rate"]
            why = f"--sample_rate={named}" if named else f"{self._first} has {self.rate}"
            raise DataError(
                f"{path}: {rate} samples a second, but {why}, and all must have one rate. Convert "
                f"it (sox FILE -r {self.rate} NEW.wav)."
            )


def recordings(place: str) -> list[tuple[str, str]]:
    """Returns (path, name below `place`) of the recordings in a folder, sorted; or of one file.

    What `prepare` ignores in a folder is left out. Raises UsageError if there is none.
    """
    if os.path.isfile(place):
        return [(place, os.path.basename(place))]
    found = sorted(_below(place))
    if not found:
        raise UsageError(f"--input={place}: no {ENDING} file in it. Name a folder with some.")
    return [(path, os.path.relpath(path, place)) for path in found]

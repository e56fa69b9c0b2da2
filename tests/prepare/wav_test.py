"""Recordings become log-mel frames."""

import numpy as np
import pytest

from tests.numeric_files import save_wav, tone
from trainer.exit_codes import DataError, UsageError
from trainer.prepare import wav


def test_recordings_become_log_mel_frames_in_which_a_tone_is_in_its_band(tmp_path, prepared):
    for name, hertz in (("low", 300), ("high", 2500)):
        save_wav(tmp_path / f"raw/{name}/1.wav", tone(hertz))
    dataset = prepared("folder", "raw", mel_bands=20, normalise="none")
    assert dataset.labels == ("high", "low") and dataset.frame == (20,)
    assert dataset.splits["train"].offsets.tolist() == [0, 8, 16]  # (800 - 200) / 80 + 1
    loudest = np.asarray(dataset.splits["train"].inputs).argmax(axis=1)
    edges = np.linspace(0, 1127 * np.log(1 + 4000 / 700), 22)
    for hertz, found in ((2500, loudest[:8]), (300, loudest[8:])):
        mel = 1127 * np.log(1 + hertz / 700)
        assert set(found) <= {np.abs(edges[1:-1] - mel).argmin()}
    assert dataset.description["input"]["reading"]["sample_rate"] == 8000


@pytest.mark.parametrize(
    "change, flags, message",
    [
        ({"rate": 16000}, {}, "16000 samples a second, but .*a/1.wav has 8000, and all must have"),
        ({}, {"sample_rate": 16000}, "8000 samples a second, but --sample_rate=16000"),
        ({"width": 4}, {}, "b/1.wav: 32 bits a sample, but it must be 16-bit PCM. Convert it"),
        ({"channels": 2}, {}, "b/1.wav: 2 channels, but it must be one. Mix them"),
        ({"samples": [1] * 9}, {}, "9 samples, but a window has 200 .--window_ms=25.0., so there"),
        ({}, {"mel_bands": 200}, "of them lie between the frequencies of a window of 200 samples"),
        ({}, {"hop_ms": 0.05}, "are 200 and 0 samples at 8000 a second, but must be at least"),
    ],
)
def test_recordings_that_do_not_fit_are_refused(tmp_path, prepared, change, flags, message):
    save_wav(tmp_path / "raw/a/1.wav", tone(300))
    save_wav(tmp_path / "raw/b/1.wav", change.pop("samples", tone(500)), **change)
    with pytest.raises((DataError, UsageError), match=message):
        prepared("folder", "raw", **flags)


def test_damaged_recordings_and_files_beside_them_are_refused(tmp_path, prepared):
    for name in ("a", "b"):
        save_wav(tmp_path / f"raw/{name}/1.wav", tone(300))
    content = (tmp_path / "raw/b/1.wav").read_bytes()
    for bad in (content[:600], content[:20], b"RIFF", b"", b"text of no recording"):
        (tmp_path / "raw/b/1.wav").write_bytes(bad)
        with pytest.raises(DataError, match="raw/b/1.wav: .*[Cc]opy it again"):
            prepared("folder", "raw")
    (tmp_path / "raw/b/1.wav").write_bytes(content)
    (tmp_path / "raw/b/notes.txt").write_text("good")
    with pytest.raises(DataError, match="notes.txt: is no .wav file, but other files of these"):
        prepared("folder", "raw")


def test_new_recordings_are_found_where_prepare_would_find_them(tmp_path):
    hidden = (".trash/a.wav", "a/.old/b.wav", "a/.c.wav", "__MACOSX/a/d.wav")
    for name in ("a/1.wav", "a/deeper/2.WAV", "b/notes.txt", *hidden):
        save_wav(tmp_path / name, tone(300))
    found = wav.recordings(str(tmp_path))
    assert [name for _, name in found] == ["a/1.wav", "a/deeper/2.WAV"]
    assert found[0][0] == f"{tmp_path}/a/1.wav"
    assert wav.are_in(str(tmp_path)) and not wav.are_in(f"{tmp_path}/b")
    with pytest.raises(UsageError, match="no .wav file in it"):
        wav.recordings(f"{tmp_path}/b")

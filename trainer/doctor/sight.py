"""A program that prints what TensorFlow sees on this machine, as one line of JSON.

It runs in a process of its own, because importing a broken TensorFlow may end the process.
Arguments: --accelerator, --cell and --jit of the run. Output: {"visible": {"CPU", "GPU", "TPU":
number of devices}, "backend": Keras' backend, "implementation": [name, reason] of the recurrent
layers on the device that the run would use}.
"""

import json
import sys
from typing import Any


def look(wanted: str, cell: str, jit: str) -> dict[str, Any]:
    """Returns what this program prints."""
    import keras

    from trainer.devices import accelerator, strategy
    from trainer.models import recurrent

    visible = strategy.visible()
    return {
        "visible": visible,
        "backend": keras.backend.backend(),
        "implementation": recurrent.choose(cell, accelerator.chosen(wanted, visible), jit),
    }


if __name__ == "__main__":
    print(json.dumps(look(*sys.argv[1:])))

"""Prints what TensorFlow sees on this machine, as a line of JSON: a program of its own, since the
import may end it.

Arguments: --accelerator, --cell and --jit of the run. Prints {"visible": {"CPU", "GPU", "TPU":
devices}, "backend": Keras' backend, "kernel": [implementation, reason] of the recurrent layers on
the device that the run would use}.
"""

import json
import sys


def look(wanted: str, cell: str, jit: str) -> dict:
    """What this program prints."""
    import keras

    from trainer.devices import accelerator, strategy
    from trainer.models import recurrent

    visible = strategy.visible()
    return {
        "visible": visible,
        "backend": keras.backend.backend(),
        "kernel": recurrent.choose(cell, accelerator.chosen(wanted, visible), jit),
    }


if __name__ == "__main__":
    print(json.dumps(look(*sys.argv[1:])))

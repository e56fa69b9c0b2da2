"""How the Python functions of a step become programs of TensorFlow and XLA."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.devices.placement import Placement
from trainer.models.networks import Network


def function(python_function: Callable[..., Any], **options: Any) -> Any:
    """Returns a tf.function of code that has its loops as `tf.while_loop`.

    AutoGraph would rewrite the sources, which takes longer than everything else at a start.
    """
    return tf.function(python_function, autograph=False, **options)


def compiles(network: Network, placement: Placement) -> bool:
    """Returns whether XLA compiles the programs around `network`, each by itself.

    It compiles our own layers, not those of Keras. A TPU strategy compiles what it runs as a whole.
    """
    ours = all(implementation == "ours" for _, implementation, _ in network.implementations)
    return ours and placement.device_type != "TPU"


def compiles_elementwise(network: Network, placement: Placement) -> bool:
    """Returns whether XLA compiles what is computed element by element: updates and masks.

    On a GPU also beside layers of Keras: op by op an update would be more than a hundred kernels,
    each of which takes longer to launch than to run.
    """
    on_gpu = placement.device_type == "GPU" and network.jit != "off"
    return on_gpu or compiles(network, placement)

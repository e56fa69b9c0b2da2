"""Compiles programs of XLA for TPUs without one: in an environment of its own, with JAX and libtpu.

    python tpu_compiler.py TOPOLOGY FILE ...

Each file holds a serialized program. Prints for each, as a line of JSON, the device, the seconds
and the bytes of memory that it needs besides its arguments and results.
"""

import json
import os
import pathlib
import sys
import time

# libtpu asks the metadata server of the cloud for its machine, unless it must not.
os.environ.update(
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_LOG_DIR="disabled",
    JAX_PLATFORMS="cpu",
)

from jax._src import compiler  # noqa: E402
from jax._src.lib import xla_client  # noqa: E402
from jax.experimental import topologies  # noqa: E402


def main(topology: str, *paths: str) -> None:
    """Compiles the program in each file for the first chip of a topology, such as v5e:2x2."""
    chip = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices[0]
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
    for path in paths:
        program = xla_client.XlaComputation(pathlib.Path(path).read_bytes())
        module = xla_client._xla.mlir.xla_computation_to_mlir_module(program)
        start = time.monotonic()
        compiled = chip.client.compile(module.encode(), xla_client.DeviceList((chip,)), options)
        found = {
            "device": chip.device_kind,
            "seconds": round(time.monotonic() - start, 1),
            "temporary": compiled.get_compiled_memory_stats().temp_size_in_bytes,
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Adds vectors up over two workers as a step does; prints JSON.

    TF_CONFIG=... python -m scripts.prove.programs.exchange ACCELERATOR MEGABYTES [MEGABYTES ...]

The line is {megabytes: {"seconds", "gb_per_second"}} of one sum. Of two workers each sends and
receives every byte once, so the speed of the connection is bytes by seconds.
"""

import contextlib
import io
import json
import os
import sys
import time

from trainer.main import main as trainer

ROUNDS = 10


def main() -> None:
    accelerator, *sizes = sys.argv[1:]
    # It sets variables of TensorFlow before its import, as every command does.
    with contextlib.redirect_stdout(io.StringIO()):
        trainer(["--help"])
    import tensorflow as tf

    from trainer.devices import peers, strategy
    from trainer.flags.run import Run

    run = Run(accelerator=accelerator, devices=1, threads=2, shards=1)
    placement = strategy.place(run, 64, peers.member(os.environ))
    found = {}
    for size in sizes:
        vector = tf.ones([int(float(size) * 1e6) // 4])

        @tf.function(autograph=False)
        def summed(vector=vector):
            # Made by the replica, on its device, as a gradient is.
            own = placement.strategy.run(lambda: vector * 1)
            # All but one number of the sum stays where it is.
            return placement.first(placement.total(own))[0]

        summed().numpy()
        began = time.monotonic()
        for _ in range(ROUNDS):
            assert summed().numpy() == placement.workers
        seconds = (time.monotonic() - began) / ROUNDS
        found[size] = {"seconds": seconds, "gb_per_second": 4 * len(vector) / 1e9 / seconds}
    placement.everyones([0.0])  # Both have ended their sums before either of them leaves.
    print(json.dumps(found), flush=True)
    time.sleep(1)
    os._exit(0)  # The ordinary way waits up to 20 s for a worker that has left.


if __name__ == "__main__":
    main()

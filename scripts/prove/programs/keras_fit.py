"""Trains the same model on the same padded rows by Keras `fit`; prints JSON.

    python -m scripts.prove.programs.keras_fit DATA_DIR DEVICE BATCH LENGTH UNITS STEPS

The line is {"examples_per_second", "ms_per_step"}; compiling and the first steps do not count.
"""

import contextlib
import io
import json
import sys
import time

from trainer.main import main as trainer


def main() -> None:
    data_dir, device = sys.argv[1:3]
    batch, length, units, steps = map(int, sys.argv[3:])
    # It sets variables of TensorFlow before its import, as every command does.
    with contextlib.redirect_stdout(io.StringIO()):
        trainer(["--help"])
    import keras
    import numpy as np
    import tensorflow as tf

    from trainer.data import pipeline, store
    from trainer.flags.run import Input

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    dataset = store.open_dataset(data_dir)
    split = dataset.splits["train"]
    settings = Input(max_length=length)
    tokens = pipeline.batch_of(split, np.arange(len(split)), length, settings).inputs
    rows = tf.data.Dataset.from_tensor_slices((tokens, np.asarray(split.targets)))
    rows = rows.shuffle(len(tokens)).repeat().batch(batch, drop_remainder=True)
    with tf.device(device):
        model = keras.Sequential(
            [
                keras.layers.Embedding(len(dataset.vocabulary), units, mask_zero=True),
                keras.layers.LSTM(units),
                keras.layers.Dense(len(dataset.labels)),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        rows = rows.prefetch(tf.data.AUTOTUNE)
        model.fit(rows, steps_per_epoch=max(5, steps // 5), epochs=1, verbose=0)
        began = time.monotonic()
        model.fit(rows, steps_per_epoch=steps, epochs=1, verbose=0)
        seconds = time.monotonic() - began
    print(
        json.dumps(
            {"examples_per_second": steps * batch / seconds, "ms_per_step": 1000 * seconds / steps}
        )
    )


if __name__ == "__main__":
    main()

"""How TensorFlow runs a task: threads and graph rewriting, set before its first operation.

The sandbox and the benchmarks' engine must be set up by this one function, or what is measured is
not what runs.
"""

import tensorflow as tf

from worker.task import TrainingTask


def configure(task: TrainingTask) -> None:
    """Set the process up for a task; sums do not depend on anything here but the processor.

    Raises:
        RuntimeError: an operation ran before.
    """
    # One thread per operation and one operation per shard: sums repeat bit for bit.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(task.shards)
    # Joining a product with its bias pays for convolutions alone; a dense layer is slower for it,
    # the first time and every later one. Left unsaid for the others: to say "on" makes them slower.
    if not any("Conv" in layer.type for layer in task.model.layers):
        tf.config.optimizer.set_experimental_options({"remapping": False})

"""How fast is training here beside TensorFlow Federated, Flower, PyTorch and Keras loops?

Opt-in (`make peers`): it installs the peers, each into an environment of its own below `.cache/`,
from `requirements/peers-*.txt`. Every engine is a process that answers laps on the same clients;
laps take turns. Un-noised sums are compared, so that the same work is known to be timed.
"""

from benchmarks.peers.race import ask

__all__ = ["ask"]

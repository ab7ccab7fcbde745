"""Weight sharing: one network trained for all architectures of a space, which inherit its weights."""

from dicenas.evaluation.supernet.network import Supernet

__all__ = ["Supernet"]

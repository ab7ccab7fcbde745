"""Search spaces as data: their choices, their architectures and what they cost, without NNI and without modules."""

from dicenas.space.choice import Choice, Sample, Value
from dicenas.space.spec import SpaceSpec

__all__ = ["Choice", "Sample", "SpaceSpec", "Value"]

"""Where the simulation's randomness and arrays come from."""

from typing import Any, Protocol

import array_api_compat.numpy
import numpy as np

Array = Any  # of whatever library `Draws.xp` is: the array API has no common type


class Draws(Protocol):
    """Random numbers as arrays of one library. All arrays are float32 unless said otherwise."""

    @property
    def xp(self) -> Any:
        """The array API namespace."""

    def asarray(self, values: Any, dtype: Any) -> Array: ...
    def uniform(self, *shape: int) -> Array:
        """Uniform in [0, 1)."""

    def normal(self, *shape: int) -> Array: ...
    def exponential(self, *shape: int) -> Array: ...
    def gamma(self, shape: Array) -> Array:
        """One draw of scale 1 for each shape parameter."""

    def poisson(self, mean: Array) -> Array:
        """One int64 draw for each mean."""


class NumpyDraws:
    """Draws on the CPU, reproducible from a seed."""

    xp = array_api_compat.numpy

    def __init__(self, generator: np.random.Generator):
        self.generator = generator

    def asarray(self, values: Any, dtype: Any) -> Array:
        return np.asarray(values, dtype)

    def uniform(self, *shape: int) -> Array:
        return self.generator.random(shape, np.float32)

    def normal(self, *shape: int) -> Array:
        return self.generator.standard_normal(shape, np.float32)

    def exponential(self, *shape: int) -> Array:
        return self.generator.standard_exponential(shape, np.float32)

    def gamma(self, shape: Array) -> Array:
        return self.generator.standard_gamma(shape, dtype=np.float32)

    def poisson(self, mean: Array) -> Array:
        return self.generator.poisson(mean)

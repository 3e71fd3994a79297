r"""Learning rates as functions of the step: `schedule(step) -> rate`.

Steps count from 0, so `schedule(0)` is the rate of the first update. An array of steps gives an
array of rates, always in float32. At any step up to $2^{24}$ a falling rate is within a relative
$16 \cdot 2^{-24} \approx 10^{-6}$ of its equation; a rate with a power $e^x$ is within $(16 +
2|x|)\, 2^{-24}$. To achieve this, steps are divided and compared as integers, the distance to the
end is subtracted before it is divided, and powers are exponentials of a float64 logarithm. optax's
schedules divide rounded numbers: when compiled, its staircase of 41 steps falls at step 42, and its
$0.99999^t$ is off by 1.3 % after a million steps.

Rates may be traced arrays, to be vmapped over; the other settings are plain numbers.
"""

from jaxdl.optimizers.schedules.cycles import cosine_restarts, joined, one_cycle, warmup
from jaxdl.optimizers.schedules.decay import (
    constant,
    cosine_decay,
    exponential_decay,
    inverse_time_decay,
    multistep_decay,
    polynomial_decay,
    step_decay,
)
from jaxdl.optimizers.schedules.numerics import Schedule
from jaxdl.public import public_names

__all__ = [
    "Schedule",
    "constant",
    "cosine_decay",
    "cosine_restarts",
    "exponential_decay",
    "inverse_time_decay",
    "joined",
    "multistep_decay",
    "one_cycle",
    "polynomial_decay",
    "step_decay",
    "warmup",
]

__dir__ = public_names(globals())

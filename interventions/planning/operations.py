"""Counts the operations of a traced program.

XLA's own count has the body of a loop once. This count multiplies it by the number of steps.
"""

import math
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def count_operations(jaxpr: Any, loop_steps: float) -> float:
    """Counts the floating-point operations of products and convolutions.

    A multiply-add is two operations. Of the branches of a condition, the largest counts.

    Args:
        jaxpr: the program.
        loop_steps: steps of each loop whose number of steps is known only when it runs.

    Example:
        >>> import jax.numpy as jnp
        >>> from interventions.planning.operations import count_operations
        >>> def powers(x):
        ...     return jax.lax.scan(lambda y, _: (y @ x, None), x, length=5)[0]
        >>> count_operations(jax.make_jaxpr(powers)(jnp.ones((10, 10))), loop_steps=1)
        10000.0
    """
    closed = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return float(sum(_count_equation(equation, loop_steps) for equation in closed.eqns))


def _count_equation(equation: Any, loop_steps: float) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        sizes = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(sizes[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        n_outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * equation.outvars[0].aval.size * kernel.size / n_outputs
    if name == "cond":
        return max(count_operations(branch, loop_steps) for branch in params["branches"])
    inner = [value for value in params.values() if isinstance(value, ClosedJaxpr | Jaxpr)]
    steps = params["length"] if name == "scan" else loop_steps if name == "while" else 1
    return steps * sum(count_operations(part, loop_steps) for part in inner)

"""Names the number formats that a model can compute in."""

from typing import Any

from jaxasr.config import Config

# Fields of `Config` by policy. "mixed" rounds weights and the inputs of products to bfloat16. The
# residual stream, norms, softmax, logits and metrics are float32. "high" differs from "float32" on
# accelerators only, where a float32 product is then a sum of three bfloat16 products.
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32", "param_dtype": "float32"},
    "high": {"dtype": "float32", "param_dtype": "float32", "float32_products": "high"},
    "mixed": {"dtype": "float32", "param_dtype": "bfloat16", "products": "bfloat16"},
    "bfloat16": {"dtype": "bfloat16", "param_dtype": "bfloat16"},
}


def precision_fields(precision: str) -> dict[str, Any]:
    """Returns the fields of `jaxasr.Config` that a policy sets.

    Args:
        precision: "float32", "high", "mixed" or "bfloat16".

    Raises:
        ValueError: an unknown policy.

    Example:
        >>> from jaxasr.precision import precision_fields
        >>> jaxasr.SIZES["base"].replace(**precision_fields("mixed")).product_dtype
        'bfloat16'
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision: expected one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}. "
            "Other combinations of formats are dtype= and param_dtype=."
        )
    return PRECISIONS[precision]


def precision_name(config: Config) -> str:
    """Returns the policy of a config. Without one, returns the dtype of activations.

    Example:
        >>> from jaxasr.precision import precision_fields, precision_name
        >>> precision_name(jaxasr.SIZES["base"].replace(**precision_fields("mixed")))
        'mixed'
    """
    names = "dtype", "param_dtype", "products", "float32_products"
    fields = {name: getattr(config, name) for name in names}
    defaults = {"products": None, "float32_products": "highest"}
    policies = (name for name, policy in PRECISIONS.items() if fields == defaults | policy)
    return next(policies, config.dtype)

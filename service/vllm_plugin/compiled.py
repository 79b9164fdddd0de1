"""`cpu_kernel` where it can be had."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch

from service.vllm_plugin.hooks import logger


@cache
def kernel(dtype: torch.dtype = torch.float32) -> ModuleType | None:
    """`cpu_kernel`, ready for adapters in `dtype`, or None where numba cannot compile: every product is then one of torch's."""
    try:
        from service.vllm_plugin import cpu_kernel

        if dtype in cpu_kernel.DTYPES:  # now, and not at the first request's expense
            cpu_kernel.add_products(dtype)
    except Exception as error:
        logger.warning("genadapter: the compiled products are left out (%s: %s)", type(error).__name__, error)
        return None
    return cpu_kernel

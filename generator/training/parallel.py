"""Several processes, each with a GPU (or CPU cores) and passages of its own, one network: started by `torchrun`.

    torchrun --nproc-per-node 8 -m generator.training CONFIG.toml FOLDER

Gradients are averaged over the processes before each update; the first process writes, evaluates and reports.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn

# The others wait while the first one evaluates.
_TIMEOUT = timedelta(hours=1)


@dataclass(frozen=True)
class Workers:
    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @classmethod
    def join(cls, device: str) -> Workers:
        """The processes that torchrun started, or this one alone. `device`: "cuda" becomes the process's own GPU; "auto" is
        that where there is one, "cpu" elsewhere."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(device=device)
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if device.startswith("cuda"):
            device = f"cuda:{local}"
            torch.cuda.set_device(local)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=_TIMEOUT)
        return cls(distributed.get_rank(), count, device)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def same_start(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the first one's weights."""
        if self.count > 1:
            for parameter in parameters:
                distributed.broadcast(parameter.data, 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """A parameter without a gradient counts as zero."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)
            parameter.grad /= self.count

    def wait(self) -> None:
        if self.count > 1:
            distributed.barrier()

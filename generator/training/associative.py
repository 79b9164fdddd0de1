"""The start of training in closed form: a generator that is an associative memory before its first gradient step.

For every target: keys are whitened states of the token before, values the direction that raises the token's logit, queries
a ridge regression from the module's own input to the key of the same position, the output those directions times a gain.
Only for o_proj-like targets whose output is added to the residual stream (d_out = d_model), with key_shift = 1 and
value_source = "embedding".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generator.config import GeneratorConfig
from generator.encode import decoder_layers
from generator.model import GeneratorNetwork

_RIDGE_QUERY = 1e-2  # of the mean diagonal of the Gram matrix
_RIDGE_VALUE = 1e-4


@torch.inference_mode()
def initialize(network: GeneratorNetwork, base: Any, rows: list[list[int]]) -> None:
    """Set the network's weights from `rows` of ordinary text (some 20,000 tokens), passed once through the frozen model.

    The output's scale is the configuration's alpha / r2: 60 to 80 for eight layers of SmolLM2-135M.
    """
    config = network.config
    if config.value_source != "embedding" or config.key_shift != 1:
        raise ValueError("the associative start needs value_source = embedding and key_shift = 1")
    states, inputs, ids = _observe(base, config, rows)
    directions, value_map = _values(base, config, ids)
    for index, target in enumerate(config.targets):
        module = network.generators[index]
        keys = _keys(states[target.layer], config.r1)
        module.norm.data.fill_(1.0)
        module.A2.data.copy_(keys / config.r1**0.5)
        module.A1.data.copy_(_queries(states[target.layer], inputs[target.name], keys) / config.r1**0.5)
        module.A3.data.copy_(value_map.mT)
        module.B.data.copy_(directions)


def _observe(
    base: Any, config: GeneratorConfig, rows: list[list[int]]
) -> tuple[dict[int, Tensor], dict[str, Tensor], Tensor]:
    """Normalized states entering each adapted layer, inputs of each target, and the token ids: one row a token."""
    states: dict[int, list[Tensor]] = defaultdict(list)
    inputs: dict[str, list[Tensor]] = defaultdict(list)
    skip = len(config.prefix_ids)

    def seen(store: list[Tensor]) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            store.append((args[0] if args else kwargs["hidden_states"])[0, skip:].float())

        return hook

    layers = decoder_layers(base)
    handles = [
        layers[layer].register_forward_pre_hook(seen(states[layer]), with_kwargs=True)
        for layer in {target.layer for target in config.targets}
    ] + [
        base.get_submodule(t.name).register_forward_pre_hook(seen(inputs[t.name]), with_kwargs=True)
        for t in config.targets
    ]
    device = next(base.parameters()).device
    try:
        for row in rows:
            base.get_decoder()(input_ids=torch.tensor([[*config.prefix_ids, *row]], device=device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    normed = {layer: F.rms_norm(torch.cat(parts), (config.hidden_size,)) for layer, parts in states.items()}
    flat = torch.tensor([token for row in rows for token in row], device=device)
    return normed, {name: torch.cat(parts) for name, parts in inputs.items()}, flat


def _values(base: Any, config: GeneratorConfig, ids: Tensor) -> tuple[Tensor, Tensor]:
    """U (d_model x r2): leading directions of the centred, normalized unembedding; and the map from the embedding to them."""
    embedding = base.get_input_embeddings().weight.float()
    decoder = base.get_decoder()
    unembedding = base.get_output_embeddings().weight.float() * decoder.norm.weight.float()
    counts = torch.bincount(ids, minlength=len(unembedding)).float()[: len(unembedding), None]
    directions = unembedding - (unembedding * counts).sum(0) / counts.sum()
    directions = directions / directions.norm(dim=-1, keepdim=True)
    present = counts[:, 0] > 0
    basis = torch.linalg.svd(directions[present], full_matrices=False)[2][: config.r2].mT  # d_model x r2
    weight = counts[present].sqrt()
    source = F.rms_norm(embedding, (config.hidden_size,), eps=config.norm_eps)[present]
    return basis, ridge(source * weight, (directions[present] @ basis) * weight, _RIDGE_VALUE)


def _keys(states: Tensor, r1: int) -> Tensor:
    """r1 leading principal directions, whitened, the mean's direction projected out (there is no bias to take it away)."""
    mean = states.mean(0)
    centred = states - mean
    eigenvalues, vectors = torch.linalg.eigh(centred.mT @ centred / len(states))
    keys = (vectors[:, -r1:] / eigenvalues[-r1:].sqrt()).mT  # r1 x d_model
    mean = mean / mean.norm()
    flat: Tensor = keys - (keys @ mean)[:, None] * mean
    return flat


def _queries(states: Tensor, inputs: Tensor, keys: Tensor) -> Tensor:
    """A1 (r1 x d_in): ridge regression from the module's input to the whitened key of the same position."""
    mean = inputs.mean(0)
    mean = mean / mean.norm()
    wanted = states @ keys.mT
    solution = ridge(inputs - (inputs @ mean)[:, None] * mean, wanted - wanted.mean(0), _RIDGE_QUERY)
    queries: Tensor = (solution - mean[:, None] * (mean @ solution)).mT
    return queries


def ridge(x: Tensor, y: Tensor, share: float) -> Tensor:
    """argmin ||x W - y||^2 + lambda ||W||^2, lambda = share of the Gram matrix' mean diagonal. W: columns of x to those of y."""
    gram = x.mT @ x
    solution: Tensor = torch.linalg.solve(
        gram + share * gram.diagonal().mean() * torch.eye(len(gram), device=x.device), x.mT @ y
    )
    return solution

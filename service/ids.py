"""Adapter ids: a keyed hash of everything that decides the weights."""

from __future__ import annotations

import array
import hashlib
import hmac
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

ADAPTER_ID = re.compile(r"ga-[0-9a-f]{32}")
# Changes when the same tokens would give other weights or another stored form.
ID_VERSION = b"genadapter-id-1"


@dataclass(frozen=True)
class WeightOptions:
    """The options of a request that change what is stored; two requests that differ in one get two ids."""

    strategy: str
    keep_state: bool = False
    parent: str = ""


def is_adapter_id(name: str) -> bool:
    return ADAPTER_ID.fullmatch(name) is not None


def adapter_id(
    secret: bytes,
    tenant: str,
    base_fingerprint: str,
    generator_fingerprint: str,
    options: WeightOptions,
    token_ids: Sequence[int],
) -> str:
    """`ga-` and 128 bits of HMAC-SHA256. Every part is preceded by its length, so that no two lists of parts read the
    same."""
    mac = hmac.new(secret, ID_VERSION, hashlib.sha256)
    for part in (
        tenant,
        base_fingerprint,
        generator_fingerprint,
        options.strategy,
        str(options.keep_state),
        options.parent,
    ):
        data = part.encode()
        mac.update(len(data).to_bytes(8, "little") + data)
    tokens = array.array("I", token_ids)
    if sys.byteorder == "big":
        tokens.byteswap()
    mac.update(len(tokens).to_bytes(8, "little") + tokens.tobytes())
    return "ga-" + mac.hexdigest()[:32]

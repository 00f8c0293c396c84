"""Copies of networks that share their weights, to be changed without a change of the original."""

import copy
import itertools
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network) -> Network:
    """Modules of its own, parameters and buffers shared."""
    tensors = itertools.chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})

"""Checkpoint files as one flat dictionary of tensors. Nothing in a file is ever run."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seed_hub.errors import SeedHubError

# Arguments and scores that training scripts keep beside their tensors; none of these runs anything.
_HARMLESS = [
    argparse.Namespace,
    np.dtype,
    np.float64(0).__reduce__()[0],
    *{type(np.dtype(c)) for c in "?bBhHiIlLqQefd"},
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
]  # its name before numpy 2


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    path: Path
    tensors: dict[str, Tensor]
    """every tensor, nested dictionaries joined by dots"""
    keys: tuple[str, ...]
    """of the tensors, and the names at the top of the file"""

    @cached_property
    def prefixes(self) -> dict[str, list[str]]:
        """Every ending of a tensor's name that begins after a dot, or is all of it: what stands before it, dot included."""
        before: dict[str, list[str]] = {}
        for key in self.tensors:
            for start in [0, *(i + 1 for i, letter in enumerate(key) if letter == ".")]:
                before.setdefault(key[start:], []).append(key[:start])
        return before


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a ``.safetensors`` file, or of one that ``torch.load(weights_only=True)`` takes.

    Raises:
        SeedHubError: there is no such file, it is damaged, holds no tensors, or could only be read by running code from it.
    """
    if not path.is_file():
        raise SeedHubError(f"There is no file {path}: name a checkpoint.")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    tensors = dict(_flat(content, "", set()))
    top = [str(key) for key in content] if isinstance(content, Mapping) else []
    if not tensors:
        raise SeedHubError(
            f"{path} holds no tensors ({', '.join(top[:6]) or type(content).__name__}): name a checkpoint of a network."
        )
    return Checkpoint(path, tensors, (*tensors, *top))


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:  # a header that claims too much is one of these
        raise SeedHubError(
            f"{path} is no whole safetensors file ({_first_line(error)}): copy it again."
        ) from error


def _pickled(path: Path) -> Any:
    try:
        # Published checkpoints keep the arguments of their training script, and some an unusual pickle protocol, of
        # which torch warns; what it cannot read, it refuses all the same.
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes of a damaged file lead to
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise SeedHubError(
                f"{path} could run code when it is read ({found[1]}) and is refused: where you trust it, save its state "
                "dict alone as safetensors."
            ) from error
        # Torch's own reason is an essay on weights_only; what is left of it is in the traceback of --debug.
        raise SeedHubError(f"{path} is damaged or no checkpoint: copy it again.") from error


def _flat(node: Any, name: str, above: set[int]) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor); a dictionary that contains itself is entered once."""
    if isinstance(node, Tensor):
        if name:
            yield name, node.detach()
    elif isinstance(node, Mapping) and id(node) not in above:
        for key, value in node.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key), above | {id(node)})


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]

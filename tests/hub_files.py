"""What a Hub says of files: their names by content, and what of a card it shows beside a model."""

from __future__ import annotations

import hashlib
from typing import Any

import yaml

LARGE = (".safetensors", ".bin", ".onnx")  # kept as LFS objects, as the Hub's .gitattributes says

Files = dict[str, bytes]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def flipped(data: bytes) -> bytes:
    """The same size, one bit different."""
    return data[:-1] + bytes([data[-1] ^ 1])


def blob(data: bytes) -> str:
    """git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(name: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": blob(data)}
    if name.endswith(LARGE):
        found["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return found


def model_info(repository: str, commit: str, files: Files) -> dict[str, Any]:
    head = files.get("README.md", b"---\n{}\n---\n").decode().split("---\n")[1]
    card = yaml.safe_load(head) or {}
    return {
        "id": repository,
        "modelId": repository,
        "sha": commit,
        "private": False,
        "tags": card.get("tags", []),
        "pipeline_tag": card.get("pipeline_tag"),
        "library_name": card.get("library_name"),
        "siblings": [{"rfilename": name} for name in files],
    }

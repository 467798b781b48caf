"""``torchhub:REPO[:REF]/ENTRY[?key=value]``: a network that the ``hubconf.py`` of a GitHub repository, or of a folder, builds.

This runs the repository's code, whose weights may be pickles that run more. So nothing is run in silence: what will be
run is said first, and only if its owner is on torch's own list, the repository is already in torch.hub's list of trusted
ones, it is a folder, or the user writes ``trust=yes``.

Two repositories whose code has a module of the same name cannot be loaded by one process: Python keeps the first.

Legend: B batch, H W height and width, T tokens, C channels, D pooled width.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seed_hub.encoder import Encoder, Features
from seed_hub.errors import SeedHubError
from seed_hub.teachers.families import Family, family_of
from seed_hub.teachers.foreign import ForeignEncoder, Reader, native_size, normalisation
from seed_hub.teachers.repository import first_line

_log = logging.getLogger(__name__)
_CLASSIFIERS = ("fc", "head", "classifier")
_WORDS = {"true": True, "false": False, "none": None}


def check(rest: str, options: dict[str, str], *, allow_random: bool) -> None:
    """It names an entry point; which there are, the repository's code tells when it is run."""
    repo, slash, entry = rest.rpartition("/")
    if not slash or not entry.isidentifier() or (not _is_folder(repo) and repo.count("/") != 1):
        raise SeedHubError(
            f"torchhub:{rest} names no entry point: write torchhub:OWNER/REPOSITORY[:REF]/ENTRY, for example "
            "torchhub:facebookresearch/dino:main/dino_resnet50, or torchhub:/FOLDER/ENTRY."
        )


def load(
    rest: str, options: dict[str, str], *, image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """Options: ``trust=yes``, ``pool=token|avg`` (of networks that tell their tokens, as DINOv2's do), ``mean``, ``std``, ``size``, ``licence``; all others go to the entry point (whole numbers,
    true, false and none as such), for example ``pretrained=true`` where it builds random weights by default. A linear
    classifier is taken off, and ``Features.logits`` stays empty."""
    spec = f"torchhub:{rest}"
    repo, _, entry = rest.rpartition("/")
    family = family_of(spec)
    consented = options.pop("trust", None) == "yes"
    mean, std = normalisation(spec, options, None, family)
    pooling = options.pop("pool", None)
    if pooling not in (None, "token", "avg"):
        raise SeedHubError(f"{spec}?pool={pooling}: choose pool=token or pool=avg.")
    size, licence = native_size(spec, options, None, family), options.pop("licence", None)
    arguments = {k: _WORDS.get(v.lower(), int(v) if v.isdigit() else v) for k, v in options.items()}
    options.clear()
    network = _build(spec, repo, entry, arguments, consented)
    _take_off_classifier(spec, network)
    reader = HubReader(network, pooling=pooling or (family.pooling if family else None), revision=_ref(repo))
    reader.num_features = _width(spec, reader, image_size or size, family)
    return ForeignEncoder(
        reader,
        arch=f"{repo}/{entry}",
        mean=mean,
        std=std,
        input_size=image_size or size,
        licence=licence or (family.licence if family else None),
    )


def _is_folder(repo: str) -> bool:
    return Path(repo).is_absolute() or repo.startswith(".")


def _ref(repo: str) -> str | None:
    return None if _is_folder(repo) else repo.partition(":")[2] or None


def _build(spec: str, repo: str, entry: str, arguments: dict[str, Any], consented: bool) -> nn.Module:
    """What the entry point returns, run with its output to stdout sent to stderr."""
    given = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
    local = _is_folder(repo)
    if local and not (Path(repo) / "hubconf.py").is_file():
        raise SeedHubError(f"{spec}: there is no hubconf.py in {repo}.")
    if not (local or consented or _is_trusted(repo)):
        raise SeedHubError(
            f"{spec} would run code of the GitHub repository {repo} (hubconf.py, and all it imports: {entry}({given})), which "
            "nobody has said to trust: read it, then write ?trust=yes behind the name."
        )
    _log.warning(f"{spec} runs {entry}({given}) of {repo}/hubconf.py, code that is not of this package")
    if not local and _ref(repo) is None:
        _log.warning(
            f"{spec} names no revision and may be another network tomorrow: write {repo}:COMMIT/{entry}"
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):
            network = torch.hub.load(
                repo,
                entry,
                source="local" if local else "github",
                trust_repo=True,
                verbose=False,
                **arguments,
            )
    except Exception as error:  # whatever their code raises
        raise SeedHubError(
            f"{spec} could not be loaded ({first_line(error)}): check the network, the entry point and its options."
        ) from error
    if not isinstance(network, nn.Module):
        raise SeedHubError(
            f"{spec} gave a {type(network).__name__} and no network: name another entry point."
        )
    return network.float().eval()


def _is_trusted(repo: str) -> bool:
    """What torch.hub would not ask about, were it to ask: it asks on the terminal, where nobody may be."""
    owner, name = repo.partition(":")[0].split("/")
    listed = Path(torch.hub.get_dir()) / "trusted_list"
    return owner in getattr(torch.hub, "_TRUSTED_REPO_OWNERS", ()) or (
        listed.is_file() and f"{owner}_{name}" in listed.read_text().split()
    )


def _take_off_classifier(spec: str, network: Any) -> None:
    """A linear last layer gives class scores (or is random, where the weights had none): the embedding is what it reads."""
    for name in _CLASSIFIERS:
        last = getattr(network, name, None)
        if isinstance(last, nn.Linear):
            setattr(network, name, nn.Identity())
            _log.warning(
                f'{spec}: its last layer "{name}" [{last.in_features} -> {last.out_features}] is left out'
            )


def _width(spec: str, reader: HubReader, size: int, family: Family | None) -> int:
    """D, asked of the network itself; of a known family, compared with it."""
    try:
        with torch.no_grad():
            pooled = reader.read(torch.zeros(1, 3, size, size)).pooled
    except SeedHubError as error:
        raise SeedHubError(f"{spec} {error}.") from error
    except Exception as error:  # their code again
        raise SeedHubError(
            f"{spec} cannot read images of {size} px ({first_line(error)}): choose another size=."
        ) from error
    width = pooled.shape[1]
    if family and family.width and width != family.width:
        raise SeedHubError(
            f"{spec} is no {family.name}: its embedding is {width} wide, and {family.width} was expected."
        )
    return width


class HubReader(Reader):
    """A network whose forward pass gives the embedding; of DINOv2's and v3's kind, with the patch tokens.

    Args:
        pooling: token or avg, for networks that tell their tokens; None: their forward pass as it is.
    """

    def __init__(self, network: nn.Module, *, pooling: str | None, revision: str | None = None) -> None:
        super().__init__(network, pooling=pooling or "its own forward pass", revision=revision)
        self._asked = pooling
        self._tells_tokens = hasattr(network, "forward_features")  # until it answers otherwise

    def read(self, x: Tensor, *, stages: bool = False) -> Features:
        """No maps: torch.hub has no word for them."""
        network: Any = self.network
        if self._tells_tokens:
            said = network.forward_features(x)
            if isinstance(said, dict) and {"x_norm_clstoken", "x_norm_patchtokens"} <= said.keys():
                tokens = said["x_norm_patchtokens"]  # [B, T, C]
                self.pooling = self._asked or "token"
                return Features(
                    said["x_norm_clstoken"] if self.pooling == "token" else tokens.mean(1), tokens
                )
            self._tells_tokens = False
        said = network(x)
        if not isinstance(said, Tensor) or said.ndim not in (2, 4):
            what = f"shape {tuple(said.shape)}" if isinstance(said, Tensor) else f"a {type(said).__name__}"
            raise SeedHubError(
                f"answers an image with {what}, and one vector or map is needed: name another entry point"
            )
        self.pooling = "its own forward pass" if said.ndim == 2 else "avg"
        if said.ndim == 2:
            return Features(said)
        return Features(said.mean((2, 3)), said.flatten(2).transpose(1, 2))

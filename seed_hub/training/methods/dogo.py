"""DoGo: peers distil each other while they learn (Bhat et al., CVPR Workshops 2021, arXiv 2104.09866).

    P[i, j] = softmax over j of  cos(z1_i, z2_j) / tau_kd        of one peer; Q of the other, from views of its own
    loss    = base + lambda KL(sg(Q) || P)  +  peer's base + lambda' KL(sg(P) || Q)        sg: no gradient
    KL(Q || P) = mean over the batch of  sum_j Q[i, j] log(Q[i, j] / P[i, j])

The student and each peer see two views of every image of their own, four in all; the diagonal, an image's own pair, belongs to the
softmax; j runs over the batch of all processes. A peer's base is `simclr` or `simsiam`, and z is the projection, or what
the released code compares: SimSiam's prediction, save that of two SimSiam peers each follows the other's projection. No
gradient crosses peers; both are shipped.

Where we differ:
- KL is a batch mean. The released code averages over all B^2 entries, 1/B of it: its weight w is our lambda = w / B. Its
  template has w = 100 and w' = 1 at B = 256, lambda = 0.39 and 0.0039; our default is 0.39 for both. No tau^2.
- The crop and the blur are the run's, and grey is applied once (released: twice for SimSiam).
- One pass over both views for a SimCLR base, as in `simclr`, so that only the peer differs from it (released: two).
- SimCLR's head is 2,048 wide (released: 512: preset). SimSiam's heads are those of `simsiam`.
- More than two may learn together: each then follows the mean KL to the others, as in deep mutual learning.
- One optimiser for all of them, which is the same as one each; only --clip sees their gradients as one.

With --accumulate each part is a batch of its own for the softmax.

Legend: B batch, M candidates: the batches of all processes, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from seed_hub.encoder import Encoder, build_student
from seed_hub.errors import SeedHubError, nearest
from seed_hub.projection import projection_head
from seed_hub.training.method import Batch, Method, Task, shapes_of
from seed_hub.training.methods.simclr import contrast, embed_both, simclr_view
from seed_hub.training.methods.simsiam import Settings as SimsiamSettings
from seed_hub.training.methods.simsiam import simsiam_heads, simsiam_loss
from seed_hub.training.precision import in_full_precision
from seed_hub.training.processes import gather_others
from seed_hub.training.views import ViewSettings

PRESETS = {
    "released-code": {
        "peer_base": "simsiam",
        "hidden_width": 512,
        "peer_kl_weight": 0.00390625,  # 1 / 256
    },
}
BASES = ("simclr", "simsiam")


@in_full_precision
def peer_kl(z1: Tensor, z2: Tensor, peer_z1: Tensor, peer_z2: Tensor, *, temperature: float = 0.1) -> Tensor:
    """KL(Q || P) of cross-view similarities, summed over the candidates, mean over the batch.

    Args:
        z1, peer_z1: ``[B, D]`` and ``[B, D']``, own and peer's first views; normalised here.
        z2, peer_z2: ``[M, D]`` and ``[M, D']``, second views of the same images, in the same order; M = B within one batch.
            The gradient reaches ``z1`` and ``z2`` only.
        temperature: tau_kd > 0, of both.

    Returns:
        A scalar >= 0 in float32 (float64 for float64 input), also under autocast.
    """
    log_p = _log_similarities(z1, z2, temperature)  # [B, M]
    log_q = _log_similarities(peer_z1.detach(), peer_z2.detach(), temperature)  # [B, M]
    return (log_q.exp() * (log_q - log_p)).sum(dim=1).mean()


def _log_similarities(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    cosine = normalize(z1, dim=1) @ normalize(z2, dim=1).T
    return (cosine / temperature).log_softmax(dim=1)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of DoGo."""

    peer: tuple[str, ...] = ()
    """the networks beside the student, one or more: names of the zoo, or any timm architectures; none: one of the student's
    own, with other initial weights"""
    base: str = "simclr"
    """what the student learns by itself: simclr or simsiam"""
    peer_base: str = "simclr"
    """what the peers learn by themselves: simclr or simsiam"""
    kl_weight: float = 0.390625
    """lambda, how much the student follows its peers: 100 / 256, the released code's 100 at its batch of 256"""
    peer_kl_weight: float = 0.390625
    """lambda', how much a peer follows the others"""
    kl_temperature: float = 0.1
    """tau_kd, softmax temperature of the similarities that are compared"""
    temperature: float = 0.5
    """tau of a simclr base"""
    hidden_width: int = 2048
    """width of the hidden layer of a simclr base's head; 0: as wide as the features"""
    embedding_width: int = 128
    """D of a simclr base"""


class _Said(NamedTuple):
    """What one peer makes of its two views."""

    base: Tensor
    """its own loss"""
    own: tuple[Tensor, Tensor]
    """z1 ``[B, D]``, z2 ``[M, D]``: what follows the other peer, and what the other follows ..."""
    projected: tuple[Tensor, Tensor]
    """... unless both predict: then the other follows this"""
    predicts: bool


class Peer(nn.Module):
    """A network that learns beside the student, with the heads of its base."""

    def __init__(self, name: str, size: int, settings: Any) -> None:
        super().__init__()
        self.encoder = _build_peer(name, size)
        self.head, self.predictor = _heads(settings.peer_base, self.encoder.width, settings)


class Dogo(Method):
    """A student and its peers, that learn by themselves and from each other."""

    Settings = Settings
    needs_teacher = False
    head: nn.Sequential
    others: Any  # a ModuleList, whose items' types torch does not carry

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        for flag, base in (("--base", settings.base), ("--peer-base", settings.peer_base)):
            if base not in BASES:
                raise SeedHubError(
                    f'Unknown {flag} "{base}": choose {" or ".join(BASES)}.' + nearest(base, BASES)
                )
        names = settings.peer or (student.name,)
        for name in names:
            if names.count(name) > 1:
                raise SeedHubError(f'The peer "{name}" is given twice: name each once.')
        self.others = nn.ModuleList(Peer(name, student.input_size, settings) for name in names)
        self.head, self.predictor = _heads(settings.base, student.width, settings)

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        views = {"simclr": simclr_view(whole), "simsiam": whole}
        peers = [views[self.settings.peer_base]] * 2 * len(self.others)
        return [views[self.settings.base]] * 2 + peers

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        s, views = self.settings, batch.views
        said = [self._say(self.student, self.head, self.predictor, views[:2])]
        for n, peer in enumerate(self.others, 1):
            said.append(self._say(peer.encoder, peer.head, peer.predictor, views[2 * n : 2 * n + 2]))
        kl, *peer_kls = (self._follow(k, said) for k in range(len(said)))
        bases = torch.stack([each.base for each in said[1:]]).sum()
        back = torch.stack(peer_kls).sum()
        loss = said[0].base + s.kl_weight * kl + bases + s.peer_kl_weight * back
        return {"loss": loss, "student_loss": said[0].base, "peer_loss": bases, "kl": kl, "peer_kl": back}

    def _follow(self, k: int, said: list[_Said]) -> Tensor:
        """KL from network k to the others, their mean."""
        found = []
        for other in said[:k] + said[k + 1 :]:
            goal = other.projected if said[k].predicts and other.predicts else other.own
            found.append(peer_kl(*said[k].own, *goal, temperature=self.settings.kl_temperature))
        return torch.stack(found).mean()

    def _say(
        self, encoder: Encoder, head: nn.Module, predictor: nn.Module | None, views: Sequence[Tensor]
    ) -> _Said:
        if predictor is None:
            z1, z2 = embed_both(encoder, head, views)
            projected = _against_all(z1, z2)
            base = contrast(z1, z2, temperature=self.settings.temperature)
            return _Said(base, projected, projected, predicts=False)
        z1, z2 = (head(encoder(view).pooled) for view in views)
        p1, p2 = predictor(z1), predictor(z2)
        base, projected = simsiam_loss(p1, p2, z1, z2), _against_all(z1.detach(), z2.detach())
        return _Said(base, _against_all(p1, p2), projected, predicts=True)

    def peers(self) -> dict[str, tuple[Encoder, nn.Sequential | None]]:
        return {peer.encoder.name: (peer.encoder, peer.head) for peer in self.others}


def _against_all(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, D]`` and ``[M, D]``: this process's first views, and everyone's second ones, its own first."""
    others = gather_others(z2)
    return z1, torch.cat([z2.to(others.dtype), others])


def _heads(base: str, width: int, settings: Any) -> tuple[nn.Sequential, nn.Sequential | None]:
    """(projector, predictor); SimCLR has no predictor."""
    if base == "simsiam":
        return simsiam_heads(width, SimsiamSettings())
    hidden = settings.hidden_width or width
    return projection_head(width, hidden, settings.embedding_width, batch_norm=True), None


def _build_peer(name: str, size: int) -> Encoder:
    """A student of that name with initial weights of its own, for images of ``size`` pixels.

    Raises:
        SeedHubError: there is none of that name, or it does not take such images.
    """
    peer = build_student(name).eval()
    peer.input_size = size
    with torch.no_grad():
        shapes_of(peer, size, f'The peer "{name}"', "--peer or --size")
    return peer.train()

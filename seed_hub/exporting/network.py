"""What an exported file computes: pixels -> embedding, normalisation inside.

Legend: B batch, S side in pixels, D width of the embedding.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError

INPUT, OUTPUT = "pixel_values", "embedding"


class Network(nn.Module):
    """``encoder`` as one function of one tensor, on the CPU, in eval mode; the encoder itself is left as it is.

    Args:
        size: the side that all images will have; 0: the encoder's own.
        features: "pooled" or "projected", see :class:`seed_hub.encoder.Features`.
        preprocess: take ``pixels`` ``[B, S, S, 3]`` as a camera gives them, instead of float ``[B, 3, S, S]`` in [0, 1].
        pixels: their type, uint8 where the format has it.

    Raises:
        SeedHubError: the encoder has no projection head.
    """

    def __init__(
        self,
        encoder: Frozen | Encoder,
        *,
        size: int = 0,
        features: str = "pooled",
        preprocess: bool = False,
        pixels: torch.dtype = torch.uint8,
    ) -> None:
        super().__init__()
        encoder = copy.deepcopy(encoder.encoder if isinstance(encoder, Frozen) else encoder)
        if features == "projected" and encoder.head is None:
            raise SeedHubError(f'{encoder.name} has no projection head: export its "pooled" features.')
        if features == "pooled":
            encoder.head = None  # its weights would lie in the file, unused
        encoder.classifier = None
        self.size = size or encoder.input_size
        self.features = features
        self.preprocess, self.pixels = preprocess, pixels
        self.encoder = encoder.cpu().float().eval()
        self._settle_size()
        self.requires_grad_(False)

    def _settle_size(self) -> None:
        """A ViT interpolates its position embeddings at every call, by an operator few formats have: once is enough."""
        grid = getattr(self.encoder.backbone, "pos_embed", None)
        patches = getattr(self.encoder.backbone, "patch_embed", None)
        if grid is None or patches is None or getattr(patches, "img_size", None) in (None, (self.size,) * 2):
            return
        if hasattr(self.encoder.backbone, "set_input_size"):
            self.encoder.backbone.set_input_size(img_size=(self.size, self.size))

    def forward(
        self, pixel_values: Tensor
    ) -> Tensor:  # its name is the input's in the formats that are not told
        if self.preprocess:
            pixel_values = pixel_values.permute(0, 3, 1, 2).float() / 255  # [B, 3, S, S]
        found = self.encoder(pixel_values)
        return found.pooled if self.features == "pooled" else found.projected

    def input_of(self, pixels: Tensor) -> Tensor:
        """uint8 ``[B, 3, S, S]`` as the file wants them."""
        return (
            pixels.permute(0, 2, 3, 1).contiguous().to(self.pixels)
            if self.preprocess
            else pixels.float() / 255
        )

    def describe_input(self) -> dict[str, object]:
        """Name, type, shape and meaning of the input, for whoever writes the code around the file."""
        s = self.size
        if self.preprocess:
            return {
                "name": INPUT,
                "dtype": str(self.pixels).removeprefix("torch."),
                "shape": ["batch", s, s, 3],
                "values": "RGB, 0 to 255",
            }
        return {"name": INPUT, "dtype": "float32", "shape": ["batch", 3, s, s], "values": "RGB, 0 to 1"}


def trace(network: Network, largest_batch: int | None = None) -> ExportedProgram:
    """The operators of ``network``, for batches of any size, or up to ``largest_batch``.

    Raises:
        SeedHubError: its Python depends on what is in the images, or on how many there are.
    """
    # Two images: one would be taken for a constant.
    example = network.input_of(torch.zeros(2, 3, network.size, network.size, dtype=torch.uint8))
    with warnings.catch_warnings():  # of torch, about itself
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(
                network, (example,), dynamic_shapes=({0: Dim("batch", max=largest_batch)},)
            )
        except Exception as error:  # torch raises a dozen kinds, and there is one thing to say
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SeedHubError(
                f"{network.encoder.name} cannot be captured by torch.export at {network.size} pixels ({reason}): "
                "choose another --size, or a network without control flow that depends on its input."
            ) from error

"""Code blocks of a card: a reader copies them, puts a photo.jpg beside them, and they run."""

from __future__ import annotations

from seed_hub.project import GITHUB_REPOSITORY

Block = tuple[str, str]  # (title, Python)

_WITH_TIMM = """\
image = Image.open("photo.jpg").convert("RGB")
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
with torch.no_grad():
    embedding = model(transform(image).unsqueeze(0))  # [1, {width}]
"""


def blocks(repository: str, student: str, width: int, side: int) -> list[Block]:
    """How to use ``repository`` with timm, with torch.hub if the zoo has the student, and with transformers and its pipeline.

    Args:
        student: as the run named it.
        width: of the embedding.
        side: of the images it is published for, in pixels.
    """
    with_timm = _WITH_TIMM.format(width=width)
    found = [("timm", _timm(repository) + with_timm)]
    if student.startswith("seed_"):
        found.append(("torch.hub", _torch_hub(repository, student.partition(".")[0], side) + with_timm))
    return [
        *found,
        ("transformers", _transformers(repository, width)),
        ("pipeline", _pipeline(repository, width)),
    ]


def _timm(repository: str) -> str:
    return f"""\
import timm
import torch
from PIL import Image

model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()
"""


def _torch_hub(repository: str, student: str, side: int) -> str:
    # The input size is of these weights; without it the transform below would be the student's default.
    return f"""\
import timm
import torch
from PIL import Image

model = torch.hub.load(
    "{GITHUB_REPOSITORY}:main",
    "{student}",
    pretrained=True,
    pretrained_cfg_overlay={{"hf_hub_id": "{repository}", "input_size": (3, {side}, {side})}},
    trust_repo=True,
).eval()
"""


def _transformers(repository: str, width: int) -> str:
    return f"""\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("{repository}")
model = AutoModel.from_pretrained("{repository}").eval()
image = Image.open("photo.jpg").convert("RGB")
with torch.no_grad():
    embedding = model(**processor(image, return_tensors="pt")).pooler_output  # [1, {width}]
"""


def _pipeline(repository: str, width: int) -> str:
    return f"""\
from transformers import pipeline

embed = pipeline("image-feature-extraction", model="{repository}")
embedding = embed("photo.jpg", pool=True, return_tensors=True)  # [1, {width}]; without pool, the last feature map
"""

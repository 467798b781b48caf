"""No step of a view or a loss mixes devices: found out without a GPU, by tensors that only pretend to lie on one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from seed_hub.training.device_views import cut_out, gather, make_views
from seed_hub.training.feature_queue import FeatureQueue
from seed_hub.training.methods.bingo import bag_losses
from seed_hub.training.methods.compress import compress_loss
from seed_hub.training.methods.moco import info_nce
from seed_hub.training.methods.seed import seed_loss
from seed_hub.training.methods.simclr import nt_xent
from seed_hub.training.views import MOCO_V2, draw_view, view_rng

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this torch cannot pretend to have a GPU")


def test_views_are_made_where_the_cuts_lie():
    recipe = replace(MOCO_V2, size=16, solarize_p=0.5)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    drawn = [draw_view(recipe, view_rng(0, i, 0), 50, 40) for i in range(8)]
    assert any(p.blur_sigma for p in drawn) and any("hue" in dict(p.colour) for p in drawn)
    batch = gather([cut_out(pixels, p) for p in drawn])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        made = make_views(batch._with(mode.from_tensor).to("cuda"))
    assert made.device.type == "cuda" and made.shape == (8, 3, 16, 16)


LOSSES = {
    "seed": lambda z, t, queue: seed_loss(z, t, queue),
    "moco": lambda z, t, queue: info_nce(z, t, queue, batch_negatives=True),
    "compress": lambda z, t, queue: compress_loss(z, t, queue, queue),
    "bingo": lambda z, t, queue: bag_losses(z, t, queue)[0],
    "simclr": lambda z, t, queue: nt_xent(z, t, memory=queue),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_where_their_queue_lies(name):
    with FakeTensorMode(allow_non_fake_inputs=True):
        z, t = (torch.randn(4, 8, device="cuda") for _ in range(2))
        queue = FeatureQueue(100, 8).to("cuda")
        for _ in range(30):
            queue.push(torch.randn(4, 8, device="cuda"))
        assert LOSSES[name](z, t, queue.get()).device.type == "cuda"


def test_the_pretence_finds_what_mixes_devices():
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, device="cuda") + torch.zeros(2)

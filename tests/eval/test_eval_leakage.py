"""Near-duplicates: copies of pictures are found however they were saved, and other pictures are not, plain ones included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from seed_hub.data import open_images
from seed_hub.errors import SeedHubError
from seed_hub.eval import leakage
from seed_hub.eval.leakage import NearDuplicate, by_embedding, by_hash, find_near_duplicates, report, without
from seed_hub.eval.perceptual_hash import Fingerprints, fingerprints, fingerprints_of


def scene(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    """Coarse and fine blobs of colour: detail at every scale, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for n in (3, 6, 12)
    ]
    return Image.fromarray(np.mean([np.asarray(layer) for layer in layers], axis=0).astype(np.uint8))


def flat(*colour: int) -> Image.Image:
    return Image.new("RGB", (64, 64), colour)


@pytest.fixture
def saved(tmp_path):
    """saved(pictures by file name) -> the ``Images`` of a new folder with them."""

    def save(pictures: dict[str, Image.Image], **how):
        folder = tmp_path / f"set{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name, picture in pictures.items():
            picture.save(folder / name, **({"quality": 50} if name.endswith((".jpg", ".webp")) else {}))
        return open_images(folder, check=False)

    return save


COPIES = {
    "as it is.png": lambda p: p,
    "jpeg.jpg": lambda p: p,
    "webp.webp": lambda p: p,
    "half.png": lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.BICUBIC),
    "double.jpg": lambda p: p.resize((p.width * 2, p.height * 2), Image.Resampling.LANCZOS),
    "squashed.png": lambda p: p.resize((64, 64)),
    "mirrored.png": ImageOps.mirror,
    "mirrored half.jpg": lambda p: ImageOps.mirror(p).resize((p.width // 2, p.height // 2)),
    "grey.png": lambda p: p.convert("L"),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found_and_nothing_else(name, saved):
    a = saved({f"{i:02}.png": scene(i) for i in range(20)})
    others = {f"other {i}.png": scene(100 + i) for i in range(20)}
    found = find_near_duplicates(a, b := saved({**others, name: COPIES[name](scene(7))}))
    assert [(a.name(each.index_a), b.name(each.index_b)) for each in found] == [("07.png", name)]
    assert found[0].how == ("mirrored hash" if "mirrored" in name else "hash")
    assert 0 <= found[0].distance <= leakage.HASH_DISTANCE


@pytest.mark.parametrize("name", [name for name in COPIES if name != "grey.png"])
def test_copies_of_plain_pictures_are_found_by_what_they_show(name, saved):
    """A dark stripe left of the middle: few frequencies have a sign, and thumbnails tell the side."""
    picture = flat(240, 230, 40)
    picture.paste((20, 30, 90), (8, 0, 24, 64))
    moved = flat(240, 230, 40)
    moved.paste((20, 30, 90), (16, 0, 32, 64))
    a = saved({"flat.png": flat(240, 230, 40), "moved.png": moved, "stripe.png": picture})
    found = find_near_duplicates(a, saved({name: COPIES[name](picture)}))
    assert [each.index_a for each in found] == [2]
    assert found[0].how == ("mirrored thumbnail" if "mirrored" in name else "thumbnail")


def test_flat_pictures_are_duplicates_by_colour_and_not_by_being_flat(saved):
    a = saved({f"{i}.png": flat(*rgb) for i, rgb in enumerate([(0, 0, 0), (200, 40, 40), (40, 200, 40)])})
    b = saved({f"{i}.png": flat(*rgb) for i, rgb in enumerate([(40, 40, 200), (200, 60, 40), (40, 196, 43)])})
    assert fingerprints(a).plain.all()
    assert find_near_duplicates(a, b) == [NearDuplicate(2, 2, "thumbnail", 4.0)]


def test_flat_pictures_and_one_with_noise_are_no_duplicates(saved):
    """A hash of noise alone would have random bits, and one of nothing at all would be everyone's."""
    rng = np.random.default_rng(0)
    grain = {
        f"{i}.png": Image.fromarray(rng.integers(100 + 20 * i, 103 + 20 * i, (64, 64, 3), dtype=np.uint8))
        for i in range(4)
    }
    a = saved({"flat.png": flat(90, 90, 90), "scene.png": scene(0)})
    assert fingerprints(saved(grain)).plain.all()
    assert find_near_duplicates(a, saved(grain)) == []


def test_a_picture_with_detail_and_a_plain_one_are_compared_by_thumbnail():
    """Whichever of the two falls on the other side of the line, after saving it again."""
    one = Fingerprints(
        torch.ones(1, 64, dtype=torch.int8), torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.tensor([True])
    )
    other = Fingerprints(-one.signs, one.thumbnails + 8, torch.tensor([False]))
    far = Fingerprints(one.signs, one.thumbnails + 9, torch.tensor([False]))
    for a, b in ((one, other), (other, one)):
        assert by_hash(a, b) == []
        assert leakage.by_thumbnail(a, b) == [NearDuplicate(0, 0, "thumbnail", 8.0)]
    assert leakage.by_thumbnail(one, far) == leakage.by_thumbnail(far, one) == []


def test_the_mirrored_fingerprint_is_that_of_the_mirrored_picture():
    small = np.stack([np.asarray(scene(i, 32, 32)) for i in range(30)])
    turned, expected = fingerprints_of(small).mirrored(), fingerprints_of(small[:, :, ::-1])
    for name in ("signs", "thumbnails", "plain"):
        assert torch.equal(getattr(turned, name), getattr(expected, name)), name
    assert not torch.equal(fingerprints_of(small).signs, turned.signs)


def test_distances_are_popcounts_of_xor():
    """By whole numbers instead of inner products, and over both orientations."""
    rng = np.random.default_rng(0)
    signs = torch.from_numpy(rng.choice([-1, 1], (90, 64)).astype(np.int8))
    signs[60:] = signs[:30]
    for i in range(30):
        signs[60 + i, rng.choice(64, i % 8, replace=False)] *= -1
    signs[75:] = Fingerprints(signs[75:], torch.zeros(15, 8, 8, 3), torch.zeros(15)).mirrored().signs
    plain, thumbnails = torch.zeros(90, dtype=torch.bool), torch.zeros(90, 8, 8, 3, dtype=torch.uint8)
    everyone = Fingerprints(signs, thumbnails, plain)
    a, b = (Fingerprints(signs[s], thumbnails[s], plain[s]) for s in (slice(0, 60), slice(60, 90)))

    def whole_numbers(each):
        return [int("".join("1" if bit > 0 else "0" for bit in row), 2) for row in each.signs.tolist()]

    codes, turned = whole_numbers(everyone), whole_numbers(everyone.mirrored())
    expected = []
    for i in range(30):
        upright = min((bin(codes[j] ^ codes[60 + i]).count("1"), j) for j in range(60))
        mirrored = min((bin(codes[j] ^ turned[60 + i]).count("1"), j) for j in range(60))
        (bits, j), how = min((upright, "hash"), (mirrored, "mirrored hash"), key=lambda each: each[0][0])
        if bits <= 5:
            expected.append(NearDuplicate(j, i, how, float(bits)))
    assert by_hash(a, b, 5) == expected
    assert {each.how for each in expected} == {"hash", "mirrored hash"}
    assert len(expected) < 30


def test_every_image_of_b_comes_once_with_its_nearest(saved):
    copies = {"0.png": scene(1), "1.jpg": scene(1), "2.png": scene(2), "3.png": scene(3)}
    a, b = saved(copies), saved({"x.png": scene(1), "y.png": scene(9), "z.png": scene(3)})
    assert find_near_duplicates(a, b) == [NearDuplicate(0, 0, "hash", 0.0), NearDuplicate(3, 2, "hash", 0.0)]


def test_blocks_and_threads_change_nothing(saved, monkeypatch):
    b = saved(
        {f"{i}.png": flat(10 * i, 20, 20) for i in range(12)} | {f"s{i}.png": scene(i) for i in range(9)}
    )
    a = saved(
        {f"{i}.png": flat(10 * i, 22, 20) for i in range(12)} | {f"s{i}.jpg": scene(i) for i in range(5)}
    )
    whole = find_near_duplicates(a, b)
    assert len(whole) == 17
    monkeypatch.setattr(leakage, "BLOCK", 1)
    monkeypatch.setattr("seed_hub.eval.perceptual_hash._BLOCK", 5)
    seen = []
    assert find_near_duplicates(a, b, progress=lambda *done: seen.append(done)) == whole
    assert seen == [(5, 17), (10, 17), (15, 17), (17, 17), (5, 21), (10, 21), (15, 21), (20, 21), (21, 21)]


def test_embeddings(flat_encoder, saved):
    """An encoder that sees the mean colour alone: a crop that no hash knows is a duplicate to it."""
    red, green = (
        Image.fromarray(np.asarray(scene(i)) // 3 + np.array(rgb, dtype=np.uint8))
        for i, rgb in enumerate([(150, 0, 0), (0, 150, 0)])
    )
    a, b = (
        saved({"red.png": red, "green.png": green}),
        saved({"b.png": green.crop((30, 20, 80, 60)), "c.png": scene(5)}),
    )
    assert find_near_duplicates(a, b) == []
    before = {name: value.clone() for name, value in flat_encoder.state_dict().items()}
    (found,) = find_near_duplicates(a, b, encoder=flat_encoder, cosine=0.99)
    assert (a.name(found.index_a), b.name(found.index_b), found.how) == ("green.png", "b.png", "embedding")
    assert 0 < found.distance < 0.01
    assert all(torch.equal(value, before[name]) for name, value in flat_encoder.state_dict().items())


def test_the_cosine_of_embeddings():
    a, b = torch.eye(3), torch.tensor([[3.0, 4, 0], [0, 0, 2], [1, 1, 1]])
    assert by_embedding(a, b, 0.79) == [
        NearDuplicate(1, 0, "embedding", pytest.approx(0.2)),
        NearDuplicate(2, 1, "embedding", 0.0),
    ]
    assert [each.index_b for each in by_embedding(a, b, 0.81)] == [1]


def test_the_report_and_what_is_left(saved):
    a = saved({f"train {i}.png": scene(i) for i in range(8)})
    b = saved({f"test {i}.jpg": scene(i) for i in range(5, 15)} | {"test 90.png": ImageOps.mirror(scene(0))})
    found = find_near_duplicates(a, b)
    text = report(found, a, b, names=2)
    assert f"4 of the 11 images of {b.source} (36.36%) are near-duplicates of images of {a.source}" in text
    assert "3 by hash, 1 by mirrored hash" in text
    assert "  test 5.jpg = train 5.png (hash, " in text
    assert "of 64 bits apart" in text
    assert text.endswith("  and 2 more")
    rest = without(b, found)
    assert [rest.name(i) for i in range(len(rest))] == [f"test {i}.jpg" for i in range(10, 15)] + [
        "test 8.jpg",
        "test 9.jpg",
    ]
    assert rest.fingerprint != b.fingerprint
    assert find_near_duplicates(a, rest) == []
    assert report([], a, rest).startswith("0 of the 7 images")
    assert len(without(b, [])) == 11
    with pytest.raises(SeedHubError, match="All 4 images of .* none is left"):
        without(
            b.subset([each.index_b for each in found]),
            [each._replace(index_b=i) for i, each in enumerate(found)],
        )


def test_what_is_refused(saved):
    a, b = saved({"0.png": scene(0)}), saved({"1.png": scene(1)})
    with pytest.raises(SeedHubError, match="compared with itself"):
        find_near_duplicates(a, a.subset([0]))
    for wrong in ({"hash_distance": 17}, {"hash_distance": -1}, {"cosine": 0.0}, {"cosine": 1.1}):
        with pytest.raises(SeedHubError, match="hash distance from 0 to 16 and a cosine above 0"):
            find_near_duplicates(a, b, **wrong)
    with pytest.raises(SeedHubError, match="holds no images to compare"):
        find_near_duplicates(a, b.subset([]))


def test_real_photographs(shared_data):
    """scene15 has the same photograph in both splits; what is found there was looked at."""
    a, b = (
        open_images(shared_data / "scene15" / f"{split}.parquet", check=False) for split in ("train", "test")
    )
    found = find_near_duplicates(a, b)
    assert len(found) < 0.01 * len(b)
    for each in found:
        x, y = (
            np.asarray(s.load(i).convert("L").resize((64, 64)), float)
            for s, i in ((a, each.index_a), (b, each.index_b))
        )
        x = x[:, ::-1] if "mirrored" in each.how else x
        assert np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.9
    assert len(found) >= 11

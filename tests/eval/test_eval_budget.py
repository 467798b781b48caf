"""A budget: what is left out, in which order, and how it is said."""

from __future__ import annotations

import pytest

from seed_hub.errors import SeedHubError
from seed_hub.eval import budget, detection, knn, linear, representation, segmentation, semi, transfer
from seed_hub.eval.budget import Cut, Work, fit, fitting, in_words, shortened, work_of


def test_what_fits_is_left_alone():
    assert not fitting(Work(100, 50), 150.0, looking=1.0, learning=3.0)
    assert fitting(Work(100, 50), 149.0, looking=1.0, learning=3.0) == Cut(images=pytest.approx(0.99))


@pytest.mark.parametrize("seconds", [1000.0, 300.0, 40.0, 3.0])
def test_the_rest_takes_no_longer_than_asked(seconds):
    for work in (Work(1000, 500), Work(0, 100, 400), Work(0, 5, 4000), Work(300, 100, 10)):
        cut = fitting(work, seconds, looking=1.0, learning=3.0)
        left = cut.images * (work.train + work.test) + 3 * cut.learning * work.learnt
        assert left <= seconds * (1 + 1e-9)
        assert left > 0.85 * seconds or not cut  # rounded down to two digits, and no further


def test_looking_takes_half_at_most_when_there_is_training():
    cut = fitting(Work(0, 1000, 1000), 100.0, looking=1.0, learning=3.0)
    assert cut == Cut(images=pytest.approx(0.05), learning=pytest.approx(0.016))


def test_two_models_are_cut_alike():
    assert Cut(0.5, 1.0).both(Cut(0.7, 0.2)) == Cut(0.5, 0.2)


def test_work_of_the_protocols(colour_images):
    train, test = colour_images(60, 0), colour_images(30, 1)
    assert work_of(knn, knn.Settings(), train, test) == Work(60, 30)
    assert work_of(linear, linear.Settings(), train, test) == Work(60, 30)
    assert work_of(representation, representation.Settings(), train, test) == Work(0, 90)
    assert work_of(transfer, transfer.Settings(), train, test) == Work(60, 30)
    paper = work_of(linear, linear.Settings(protocol="seed", paper_epochs=10, trials=2), train, test)
    assert (paper.test, paper.learnt, paper.scaled) == (
        60,
        pytest.approx(2 * 10 * 60 / 3),
        {"paper_epochs": 10},
    )
    few = work_of(semi, semi.Settings(share=(0.1, 0.5), trials=2, least_steps=4), train, test)
    assert (few.test, few.learnt) == (120, 2 * (20 * 6 + 20 * 30))
    assert few.scaled == {"epochs": 20, "least_steps": 4}
    tuned = work_of(transfer, transfer.Settings(mode="finetune", lr=(0.1, 0.2), steps=10), train, test)
    assert (tuned.test, tuned.learnt) == (30 + 2 * 12, 3 * 10 * 64)


def test_every_protocol_that_learns_says_what_it_costs(colour_images):
    train, test = colour_images(60, 0), colour_images(30, 1)
    for module in (detection, segmentation):
        settings = module.Settings(iterations=10, train_batch=4, trials=2)
        found = work_of(module, settings, train, test)
        assert (found.test, found.scaled) == (60, {"iterations": 10})
        assert found.learnt == pytest.approx(2 * 10 * 4 / (3 if module is segmentation else 1))


def test_what_is_left_out_is_recorded(colour_images):
    train, test = colour_images(600, 0), colour_images(300, 1)
    asked = semi.Settings(epochs=10)
    fewer, less, settings, note = shortened(semi, Cut(0.2, 0.33), train, test, asked, 5.0)
    assert fewer is train and len(less) == 60
    assert (settings.epochs, settings.least_steps) == (3, 66)
    assert note == {"minutes": 5.0, "epochs": [10, 3], "least_steps": [200, 66], "test images": [300, 60]}
    assert in_words(note) == (
        "shortened to fit 5 minutes: epochs 3 of 10, least steps 66 of 200, test images 60 of 300"
    )
    assert shortened(semi, Cut(), train, test, asked, 5.0) == (train, test, asked, {})
    fewest = shortened(knn, Cut(1e-6), train, test, knn.Settings(), 5.0)
    assert len(fewest[1]) >= budget.LEAST_TEST, "so few images say nothing"


def test_classes_keep_their_shares(colour_images):
    train, test = colour_images(600, 0), colour_images(300, 1)
    fewer, less, *_ = shortened(knn, Cut(0.5), train, test, knn.Settings(), 5.0)
    for images, count in ((fewer, 300), (less, 150)):
        assert [sum(images.labels == kind) for kind in range(3)] == [count / 3] * 3


def test_a_real_network_is_timed(flat_encoder, colour_images):
    train, test = colour_images(60, 0), colour_images(30, 1)
    settings = knn.Settings(size=8, workers=0, device="cpu")
    assert not fit(knn, flat_encoder, train, test, settings, 5.0)
    assert fit(knn, flat_encoder, train, test, settings, 1e-6)
    with pytest.raises(SeedHubError, match="no time to measure in"):
        fit(knn, flat_encoder, train, test, settings, 0.0)

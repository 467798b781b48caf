"""What every protocol refuses, and what it says; and that each protocol file is complete."""

from __future__ import annotations

import dataclasses
import importlib
import logging

import numpy as np
import pytest

from seed_hub.errors import SeedHubError
from seed_hub.eval import protocols
from seed_hub.eval.labels import paired_labels


@pytest.mark.parametrize("name", protocols())
def test_a_protocol_file_is_complete(name):
    protocol = importlib.import_module(f"seed_hub.eval.{name}")
    assert protocol.__doc__
    assert isinstance(protocol.HEADLINE, str)
    settings = protocol.Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.size = 1


def test_the_protocols_there_are():
    assert {"knn", "linear"} <= set(protocols())


@pytest.mark.parametrize("name", protocols())
def test_unlabelled_images_are_refused_before_any_work(name, colour_images):
    protocol = importlib.import_module(f"seed_hub.eval.{name}")
    if not getattr(protocol, "NEEDS_LABELS", True):
        pytest.skip(f"{name} reads no labels")
    with pytest.raises(
        SeedHubError, match=r"12 of the 12 images of /somewhere/colours \(split1\) have no label"
    ):
        list(
            protocol.evaluate(
                None, colour_images(9, 0), colour_images(12, 1, labelled=False), protocol.Settings()
            )
        )


def test_hidden_labels_are_no_labels(colour_images):
    test = colour_images(12, 1)
    test.labels[:5] = -1  # how `datasets` marks a test split whose labels were kept back
    with pytest.raises(SeedHubError, match="5 of the 12 images"):
        paired_labels(colour_images(9), test)


def test_other_classes(colour_images):
    train, test = colour_images(9, 0), colour_images(9, 1)
    test.classes = ["red", "green", "mauve"]
    with pytest.raises(
        SeedHubError, match=r'3 and 3: "blue" only in .*\(split0\); "mauve" only in .*\(split1\)'
    ):
        paired_labels(train, test)
    test.classes = ["blue", "green", "red"]
    with pytest.raises(SeedHubError, match="the same names in another order"):
        paired_labels(train, test)
    test.classes = None
    with pytest.raises(SeedHubError, match="3 and 0"):
        paired_labels(train, test)
    train.classes = None
    assert len(paired_labels(train, test)[0]) == 9


def test_one_class_is_no_task(colour_images):
    train = colour_images(9)
    train.labels[:] = 1
    with pytest.raises(SeedHubError, match="shows 1 class"):
        paired_labels(train, colour_images(9, 1))


def test_no_images(colour_images):
    with pytest.raises(SeedHubError, match="holds no images"):
        paired_labels(colour_images(0), colour_images(9, 1))


def test_a_class_without_training_images_is_said(colour_images, caplog):
    train = colour_images(30)
    with caplog.at_level(logging.WARNING):
        paired_labels(train.subset(np.flatnonzero(train.labels != 1)), colour_images(12, 1))
    assert (
        "1 of the test classes have no training image (green): their 4 test images count as wrong"
        in caplog.text
    )


def test_training_images_are_not_for_testing(colour_images):
    with pytest.raises(SeedHubError, match="name another split"):
        paired_labels(colour_images(9), colour_images(9))
    images = colour_images(9)
    assert len(paired_labels(images, images, same_images=True)[0]) == 9
    with pytest.raises(SeedHubError, match="takes one split as both"):
        paired_labels(images, colour_images(9, 1), same_images=True)

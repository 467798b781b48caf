"""Where this project lives: each address once."""

GITHUB_REPOSITORY = "seed-hub/seed-hub"
"""``torch.hub.load(GITHUB_REPOSITORY, ...)``"""

HUB_ORGANISATION = "seed-hub"
"""Hugging Face organisation; a weight ``arch.tag`` is its repository ``seed-hub/arch.tag``."""

"""From a run to a page of the Hugging Face Hub: card, folder, push."""

from seed_hub.publishing.push import push_folder

__all__ = ["push_folder"]

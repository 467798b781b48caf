"""Where images come from: a folder, parquet files, webdataset shards, here or behind a URL, a packed
store, or a Hub data set, all seen as one ``Images``.

torch is only imported by ``seed_hub.data.center``, which makes tensors.
"""

from seed_hub.data.images import Images, choose_share, hide_labels, split_held_out
from seed_hub.data.opening import list_splits, open_images, open_stream

__all__ = [
    "Images",
    "choose_share",
    "hide_labels",
    "list_splits",
    "open_images",
    "open_stream",
    "split_held_out",
]

"""A larger teacher, for a GPU: ResNet-50 with the stem for small images, by MoCo v2 at 64 pixels, 200 passes.

Not run here yet: about 10^18 operations, weeks on a laptop's core. It saves every two minutes, and the same command goes on
where it was stopped (`timeout -s TERM 580` makes ten-minute slices). `seed-hub pack --format raw` before it: packed images live on
the card.

    python training/tin200/moco_resnet50.py --data tiny-imagenet-200 --out runs
"""

from rows import IMAGES, parser, train

if __name__ == "__main__":
    args = parser(__doc__).parse_args()
    settings = {
        "method": "moco",
        "size": 64,
        "batch_size": 256,
        "optimizer": "sgd",
        "lr": 0.06,
        "weight_decay": 5e-4,
        "clip": 0.0,
        "seed": 1,
        "workers": -1,
        "save_every": 2.0,
    }
    own = {"queue_size": 16384, "key_momentum": 0.99, "temperature": 0.2}
    train({"moco_resnet50": "resnet50_small_images"}, args, 200 * IMAGES, settings, own)

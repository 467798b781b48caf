"""``export``: a model as a file for a device, compared with the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, facts, say, show, table
from seed_hub.errors import SeedHubError
from seed_hub.network_settings import check_numbers
from seed_hub.settings import read_settings


@dataclass(frozen=True)
class ExportSettings:
    """What ``export`` can be told."""

    model: str = ""
    """run folder, name of the zoo, untrained:NAME, or a teacher such as timm:NAME"""
    format: str = ""
    """torch (.pt2), onnx (.onnx), openvino (.xml), executorch (.pte) or coreml (.mlpackage)"""
    out: str = ""
    """file to write; what was measured of it goes into a .parity.json beside it"""
    size: int = 0
    """side in pixels of its images; 0: the model's own"""
    preprocess: bool = False
    """take uint8 pixels [B, S, S, 3] as a camera gives them, instead of float [B, 3, S, S] in [0, 1]; normalisation is inside either way"""
    features: str = "pooled"
    """pooled: the trunk's output; projected: the projection head's"""
    data: str = ""
    """images to compare on, and to calibrate int8 with, as for embed; empty: noise like photographs"""
    split: str = ""
    """split of the data; empty: the data set's train split, or all of it"""
    min_cosine: float = 0.0
    """refuse a file with a lower cosine to the model's embeddings; 0: 0.9999 for each image, of an int8 file 0.99 on average"""
    int8: bool = False
    """8-bit weights and activations (onnx, openvino), calibrated on --data, labelled or not; what costs too much cosine stays in float"""
    images: int = 512
    """images to calibrate int8 with; up to 2,000 others measure what it loses"""
    max_drop: float = 1.0
    """points of k-NN accuracy an int8 file may lose, where --data has labels"""
    overwrite: bool = False
    """replace the file"""


def export(argv: list[str]) -> dict[str, Any]:
    parser = Parser(
        "export", "A model's embedding as a file for a device, normalisation inside, compared with the model."
    )
    needed = ("model", "format", "out")
    parser.add_options("export", read_settings(Path(__file__), "ExportSettings").options, required=needed)
    given = parser.parse(argv)
    parser.need(given, *needed)
    return _export(ExportSettings(**given))


def _export(settings: ExportSettings) -> dict[str, Any]:
    _refuse(settings)

    from seed_hub.exporting import exporter, int8
    from seed_hub.exporting.writing import format_module, refuse_place
    from seed_hub.teachers import load_model

    out = Path(settings.out)
    refuse_place(out, format_module(settings.format), settings.overwrite)  # before images are opened
    plan = None
    if settings.int8:
        int8.refuse_format(settings.format)
        plan = int8.Plan(settings.images, settings.max_drop, settings.min_cosine or int8.Plan.min_cosine)
    wish = exporter.Wish(
        format=settings.format,
        out=out,
        size=settings.size,
        features=settings.features,
        preprocess=settings.preprocess,
        min_cosine=settings.min_cosine or exporter.MIN_COSINE,
        int8=plan,
        overwrite=settings.overwrite,
    )
    images = None
    if settings.data:
        from seed_hub.data import open_images

        images = open_images(settings.data, split=settings.split or None, progress=Count("checking images"))
    encoder = load_model(settings.model, image_size=settings.size or None)
    report = exporter.export(encoder, wish, images)
    _tell(out, report)
    return {**report, "file": str(out)}


def _refuse(settings: ExportSettings) -> None:
    if settings.int8 and not settings.data:
        raise SeedHubError(
            "--int8 needs images to calibrate on: name some, without labels if you like, with --data."
        )
    if settings.features not in ("pooled", "projected"):
        raise SeedHubError(
            f'There are no "{settings.features}" features: choose --features pooled or projected.'
        )
    check_numbers({"size": settings.size})
    for name in ("min_cosine", "max_drop"):
        if getattr(settings, name) < 0:
            raise SeedHubError(f"--{name.replace('_', '-')} is a number, at least 0.")
    if settings.min_cosine > 1:
        raise SeedHubError("--min-cosine is at most 1: that of the same embeddings.")
    if settings.images < 1:
        raise SeedHubError("--images is a whole number, at least 1.")


def _tell(out: Path, report: dict[str, Any]) -> None:
    given, parity, speed, loss = (report[name] for name in ("input", "parity", "latency_ms", "int8"))
    rows = [
        ("file", f"{out}, {report['size_mb']:.1f} MB"),
        ("input", f"{given['name']} {given['dtype']} {_shape(given['shape'])}, {given['values']}"),
        ("output", f"{report['output']['name']} float32 {_shape(report['output']['shape'])}"),
    ]
    if parity:
        rows += [
            ("compared on", f"{parity['images']} images, {report['compared_on']}"),
            ("cosine, lowest", f"{parity['cosine']:.6f}, less the mean {parity['centred_cosine']:.6f}"),
            ("same nearest neighbour", f"{100 * parity['neighbour_agreement']:.1f} % of images"),
            ("one image, one thread", f"{speed['file']:.2f} ms, torch {speed['torch']:.2f} ms"),
        ]
    show(facts([*rows, *_int8_rows(loss)]))
    if parity:
        lines = [
            [size, f"{each['cosine']:.6f}", f"{each['largest_difference']:.1e}"]
            for size, each in parity["by_batch"].items()
        ]
        show("\n" + table(lines, ["batch", "lowest cosine", "largest difference"]))
    else:
        say(f"nothing here runs {out.name}: compare it with the model on the device before it is used")


def _int8_rows(loss: dict[str, Any] | None) -> list[tuple[str, str]]:
    if loss is None:
        return []
    choice, knn = loss["choice"], loss["knn"]
    kept = choice["in_float"]
    text = f"{choice['products'] - len(kept)} of {choice['products']} layers compute in int8"
    if kept:
        text += (
            f", as all of them would have a cosine of {choice['cosine_of_all']:.4f}; in float stay\n"
            + "\n".join(kept)
        )
    rows = [
        ("int8", text),
        ("int8, mean cosine", f"{loss['cosine']:.4f} on {loss['images']} other images"),
        ("int8, 10 neighbours", f"{100 * loss['neighbour_overlap']:.1f} % kept"),
    ]
    if knn:
        low, high = knn["interval"]
        rows.append(
            (
                "int8, k-NN",
                f"{knn['before']:.2f} % to {knn['after']:.2f} %, a drop of {knn['drop']:.2f} points "
                f"({low:.2f} to {high:.2f})",
            )
        )
    return rows


def _shape(sides: list[Any]) -> str:
    return f"[{', '.join(map(str, sides))}]"

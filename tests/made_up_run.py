"""The folder of a finished run, made up: a network as after training, what its run wrote, and how it was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from seed_hub.encoder import Encoder, build_student
from seed_hub.eval.record import weights_sha256
from seed_hub.model_folder import save_model
from seed_hub.projection import projection_head

SIDE = 64
FINGERPRINT = "fedcba9876543210"
COMMIT = "abcdef0123456789abcdef0123456789abcdef01"


def network(name: str, seed: int = 0) -> Encoder:
    """As after training: norms have moved."""
    torch.manual_seed(seed)
    encoder = build_student(name).eval()
    for module in encoder.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return encoder


def line(sha256: str, spec: str, mean: float, **more: Any) -> dict[str, Any]:
    """Of a results file."""
    data = {"source": "photos", "split": "validation", "images": 1200, "fingerprint": "0123456789abcdef"}
    return {
        "protocol": "knn",
        "metric": "top1_k20",
        "value": mean,
        "n": 1,
        "mean": mean,
        "std": None,
        "values": {},
        "model": {"spec": spec, "name": spec, "sha256": sha256, "facts": {}},
        "data": {"train": data | {"split": "train"}, "test": data},
        "settings": {"size": SIDE, "precision": "fp32"},
        "commit": "0" * 40,
        "date": "2026-01-02T03:04:05Z",
        **more,
    }


def make_run(folder: Path, encoder: Encoder, student: str, **settings: Any) -> Path:
    """The folder of a finished run of ``encoder``, measured once."""
    encoder.input_size = SIDE
    facts = {
        "name": student,
        "method": "seed",
        "teacher": "timm:big.tag",
        "teacher_licence": "apache-2.0",
        "images_seen": 320,
    }
    save_model(folder / "best", encoder, facts, projection_head(encoder.width, 8, 4))
    config = {"data": "/home/someone/photos", "student": student, "method": "seed", "teacher": "timm:big.tag"}
    config |= {"out": "/home/someone/runs/x", "size": SIDE, "method_settings": {"queue_size": 640}}
    write_json(folder / "config.json", config | settings)
    command = ["seed-hub", "distill", "--data=/home/someone/photos", "--out", "/home/someone/runs/x"]
    environment = {
        "packages": {"torch": "2.6.0", "timm": None},
        "cpu": "A Processor",
        "cores": 2,
        "gpu": None,
    }
    write_json(folder / "environment.json", environment | {"command": command, "commit": COMMIT})
    write_json(folder / "verdict.json", {"verdict": "It worked: 45.2% of the neighbours are found."})
    step = {"event": "step", "step": 40, "images": 640, "loss": 5.0, "seconds": 7200.0, "memory_gb": 1.0}
    (folder / "log.jsonl").write_text(json.dumps(step | {"seconds_left": 0}) + "\n")
    torch.save({"data": FINGERPRINT}, folder / "checkpoint.pt")
    lines = [
        line(weights_sha256(encoder.backbone), "x", 45.678, interval=[43.2, 48.1]),
        line("1" * 64, f"untrained:{student}", 12.5),
        line("2" * 64, "another", 99.0, metric="top1_k1", settings={"size": SIDE, "k": 1}),
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))

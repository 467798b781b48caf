"""What SEED's loss costs, beside the formulation with matrices of batch x queue: time, memory, and how exact it is.

    python training/bench_queue_loss.py                  # one JSON line per case
    python training/bench_queue_loss.py --out eval/results/speed/queue_loss.jsonl

One thread. Loss and gradient, ours and the reference in turn, in seconds of this process's CPU; the median of the rounds
counts. Memory is the growth of the resident size at its highest, each measured in a process of its own (Linux).
The queue's rows and the embeddings are random unit vectors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seed_hub.bench.reference import STUDENT_TEMPERATURE, TEACHER_TEMPERATURE
from seed_hub.bench.reference import reference_loss as paper_loss
from seed_hub.bench.timing import peak_megabytes
from seed_hub.eval.provenance import commit, machine, versions
from seed_hub.eval.results_file import append_result
from seed_hub.training.methods.seed import seed_loss

WIDTH = 128  # of SEED's embedding
QUEUE = 65536
# (batch, precision) of the bars, and a small batch
TIMED = ((64, "fp32"), (256, "fp32"), (1024, "fp32"), (1024, "bf16"))
REMEMBERED = ((256, "fp32"), (1024, "fp32"), (1024, "bf16"))
LONG_QUEUE = 2**20


def reference_loss(z_s: Tensor, z_t: Tensor, queue: Tensor) -> Tensor:
    """The equation as the paper puts it: similarities, softmax and log-softmax over ``[B, 1 + K]``, of a cloned queue."""
    return paper_loss(normalize(z_s, dim=1), normalize(z_t, dim=1), queue)


def our_loss(precision: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def loss(z_s: Tensor, z_t: Tensor, queue: Tensor) -> Tensor:
        return seed_loss(
            z_s,
            z_t,
            queue,
            student_temperature=STUDENT_TEMPERATURE,
            teacher_temperature=TEACHER_TEMPERATURE,
            queue_precision=precision,
        )

    return loss


def inputs(batch: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    queue = torch.empty(rows, WIDTH)
    for part in queue.split(QUEUE):  # whole, its normalisation would be the largest thing measured
        part.copy_(normalize(torch.randn_like(part), dim=1))
    return torch.randn(batch, WIDTH, requires_grad=True), torch.randn(batch, WIDTH), queue


def graded(loss: Callable[..., Tensor], z_s: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    value = loss(z_s, *others)
    return value.detach(), torch.autograd.grad(value, z_s)[0]


def timed(batch: int, precision: str, flush: bool, rounds: int) -> dict[str, Any]:
    """The reference's time over ours, and the distance of both from float64 on 32 of the images."""
    given = inputs(batch, QUEUE)
    sides = {"reference": reference_loss, "ours": our_loss(precision)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    torch.set_flush_denormal(flush)
    for number in range(rounds + 1):
        for name, loss in sides.items():
            start = time.process_time()
            graded(loss, *given)
            if number:  # the first warms up
                seconds[name].append(time.process_time() - start)
    torch.set_flush_denormal(False)
    spread = [a / b for a, b in zip(seconds["reference"], seconds["ours"], strict=True)]
    return {
        "metric": "reference_time_over_ours",
        "value": median(seconds["reference"]) / median(seconds["ours"]),
        "n": rounds,
        "values": {"lowest": min(spread), "highest": max(spread), **errors(precision, given)},
        "settings": {"batch": batch, "queue": QUEUE, "precision": precision, "flush_denormal": flush},
    }


def errors(precision: str, given: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Relative error of the loss, and of the gradient by its norm, against the reference in float64."""
    few = [given[0][:32].detach().requires_grad_(), given[1][:32], given[2][: QUEUE // 4]]
    value, grad = graded(reference_loss, *(x.detach().double().requires_grad_(x.requires_grad) for x in few))
    found = {}
    for name, loss in (("reference", reference_loss), ("our", our_loss(precision))):
        own, own_grad = graded(loss, *few)
        found[f"{name}_loss_error"] = ((own - value) / value).abs().item()
        found[f"{name}_gradient_error"] = ((own_grad - grad).norm() / grad.norm()).item()
    return found


def growth_mb(side: str, batch: int, rows: int) -> float:
    """The resident size at its highest during one loss and gradient, beyond the inputs, in MB; ``side``: reference or a
    precision of ours. For a fresh process."""
    torch.set_num_threads(1)
    loss = reference_loss if side == "reference" else our_loss(side)
    graded(loss, *inputs(8, 256))  # what is loaded and compiled once is no part of it
    given = inputs(batch, rows)
    grown = peak_megabytes(lambda: graded(loss, *given), torch.device("cpu"))
    if grown is None:
        raise SystemExit("This system does not tell a process's peak memory: use --only time.")
    return grown


def alone(side: str, batch: int, rows: int) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(growth_mb, side, batch, rows).result()


def remembered(batch: int, precision: str) -> dict[str, Any]:
    ours, reference = (alone(side, batch, QUEUE) for side in (precision, "reference"))
    return {
        "metric": "our_extra_memory_over_reference",
        "value": ours / reference,
        "n": 1,
        "values": {"our_mb": ours, "reference_mb": reference},
        "settings": {"batch": batch, "queue": QUEUE, "precision": precision},
    }


def lengthened(batch: int, precision: str) -> dict[str, Any]:
    short, long = (alone(precision, batch, rows) for rows in (QUEUE, LONG_QUEUE))
    return {
        "metric": "extra_memory_long_queue_over_short",
        "value": long / short,
        "n": 1,
        "values": {"short_mb": short, "long_mb": long},
        "settings": {"batch": batch, "queue": QUEUE, "long_queue": LONG_QUEUE, "precision": precision},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="timings of each side (default 5)")
    parser.add_argument("--only", choices=("time", "memory"), help="one kind of case; default: both")
    parser.add_argument("--batch", type=int, help="the cases of this batch size; default: all")
    parser.add_argument("--out", type=Path, help="add the lines to this file too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases: list[Callable[[], dict[str, Any]]] = []
    if args.only != "memory":
        for b, p in (c for c in TIMED if args.batch in (None, c[0])):
            cases += [lambda b=b, p=p, f=f: timed(b, p, f, args.rounds) for f in (False, True)]
    if args.only != "time":
        for b, p in (c for c in REMEMBERED if args.batch in (None, c[0])):
            cases += [lambda b=b, p=p: remembered(b, p), lambda b=b, p=p: lengthened(b, p)]
    about = {
        **commit(),
        "machine": machine("cpu"),
        "versions": versions(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    for case in cases:
        line = {"protocol": "queue_loss", **case()} | about
        print(json.dumps(line), flush=True)
        if args.out:
            append_result(args.out, line)


if __name__ == "__main__":
    main()

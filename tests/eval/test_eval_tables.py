"""Tables are a function of the results: regenerated, checked, and refused when the results do not fit together."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from seed_hub.errors import SeedHubError
from seed_hub.eval.results_file import results
from seed_hub.weights import Weight


@pytest.fixture(scope="session")
def script(root):
    spec = importlib.util.spec_from_file_location("eval_tables", root / "eval" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line(
    protocol="knn",
    value=50.0,
    *,
    name="m",
    sha="a",
    size=64,
    std=None,
    n=1,
    facts=None,
    top5=None,
    **settings,  # `protocol_` for the setting of that name
):
    metric = "top1_k20" if protocol == "knn" else "top1"
    summary = {"value": value, "n": n, "mean": value, "std": std}
    more = {"top5": {"value": top5, "n": 1, "mean": top5, "std": None}} if top5 else {}
    part = {"source": "d", "images": 1000, "fingerprint": "f"}
    return {
        "protocol": protocol,
        "metric": metric,
        **summary,
        "values": {metric: summary, **more},
        "model": {"spec": name, "name": name, "sha256": sha, "facts": facts or {}},
        "data": {"train": part | {"split": "train"}, "test": part | {"split": None}},
        "settings": {"size": size, "batch_size": 256, "features": "pooled"}
        | {name.rstrip("_"): value for name, value in settings.items()},
        "commit": "0123456789abcdef",
        "dirty": False,
        "machine": {"cpu": "a processor", "cores": 2, "threads": 1, "gpu": None},
    }


def test_a_table(script):
    facts = {"method": "seed", "images_seen": 1_200_000}
    found = script.results_table(
        [line(name="teacher"), line(name="s", facts=facts), line("linear", 61.25, name="s", top5=80.0)]
    )
    assert found.splitlines() == [
        "| model | method | images seen | k-NN (k = 20), % | linear top-1, % |",
        "| --- | --- | --- | ---: | ---: |",
        "| teacher |  |  | 50.0 |  |",
        "| s | seed | 1,200,000 | 50.0 | 61.2 |",
        "",
        "k-NN (k = 20): d train (1,000 images); tested on d (1,000 images); size 64. ± is the standard deviation; n = 1 where none is "
        "given. Measured on a processor, 2 cores, at commit 0123456789.",
    ]


def test_n_mean_and_deviation(script):
    several = script.results_table([line(value=v, sha=s) for v, s in ((50.0, "a"), (52.0, "b"), (54.0, "c"))])
    assert "| m | 52.0 ± 2.0 (n = 3) |" in several
    assert "| m | 50.0 ± 0.5 (n = 4) |" in script.results_table([line(std=0.5, n=4)])
    seeds = script.results_table([line("linear", 50.0, seed=0), line("linear", 51.0, seed=1)])
    assert "| m | 50.5 ± 0.7 (n = 2) |" in seeds


def test_the_last_measurement_counts(script):
    assert "| m | 51.0 |" in script.results_table([line(value=50.0), line(value=51.0)])


def test_sizes_are_rows_and_test_images_are_columns(script):
    other = line("transfer", 70.0)
    other["data"]["test"] = other["data"]["test"] | {"source": "elsewhere", "fingerprint": "g"}
    found = script.results_table([line(), line(value=60.0, size=128), other, line("transfer", 71.0)])
    assert "| m at 64 px | 50.0 | 70.0 | 71.0 | 70.5 |" in found, (
        "and the mean over the data sets of transfer"
    )
    assert "| m at 128 px | 60.0 |  |  |  |" in found
    assert found.startswith(
        "| model | k-NN (k = 20), % | elsewhere top-1, % | d top-1, % | mean of elsewhere, d, % |"
    )


def test_models_of_one_architecture_stand_together(script):
    names = ["untrained:a", "untrained:b", "taught", "b2"]
    facts = [{}, {}, {"name": "a"}, {"name": "b"}]
    lines = [line(name=name, sha=name, facts=own) for name, own in zip(names, facts, strict=True)]
    rows = script.results_table(lines).splitlines()[2:6]
    assert [row.split()[1] for row in rows] == ["untrained:a", "taught", "untrained:b", "b2"]


def test_a_mode_is_a_column_and_other_settings_are_starred(script):
    found = script.results_table(
        [
            line("linear"),
            line("linear", 55.0, protocol_="seed"),
            line("linear", 54.0, name="b", protocol_="seed"),
        ]
    )
    assert found.startswith("| model | linear top-1, % | linear top-1, protocol seed, % |")
    starred = script.results_table([line("linear", paper_epochs=5)])
    assert "| linear top-1\\*, % |" in starred and "paper epochs 5" in starred


def test_only_the_protocols_asked_for_in_their_order(script):
    found = script.results_table([line("linear", 60.0), line(), line("retrieval", 70.0)], ["knn", "linear"])
    assert "| m | 50.0 | 60.0 |" in found and "70.0" not in found


def test_what_was_shortened_is_marked(script):
    short = line(name="b") | {"shortened": {"minutes": 5, "test images": [10000, 1200]}}
    found = script.results_table([line(), short])
    assert "| m | 50.0 |" in found and "| b | 50.0† |" in found
    assert "†: shortened to fit 5 minutes: test images 1,200 of 10,000." in found


def test_the_command_of_a_column(script):
    there = line("linear", protocol_="seed", paper_epochs=5, lr=[1.0, 3.0])
    there["data"]["test"]["split"] = "validation"
    assert script.commands([there, there | {"commit": "1"}]) == (
        "- `seed-hub eval linear --model MODEL --data d --split validation --size 64 --protocol seed --paper-epochs 5 "
        "--lr 1.0 3.0`"
    )


def test_images_of_a_column_must_agree(script):
    other = line(name="b")
    other["data"]["test"] = other["data"]["test"] | {"fingerprint": "g"}
    with pytest.raises(SeedHubError, match="different test images of d"):
        script.results_table([line(), other])


def test_settings_of_a_column_must_agree(script):
    script.results_table([line(), line(name="b", batch_size=1, k=[20], device="cpu")])
    with pytest.raises(SeedHubError, match="knn results .* different temperature \\(0.07 and 0.1\\)"):
        script.results_table([line(temperature=0.07), line(name="b", temperature=0.1)])


def test_blocks_are_rewritten_and_checked(script, tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps(line()) + "\n")
    page = tmp_path / "page.md"
    words = [str(page), "--results", str(tmp_path)]
    page.write_text("before `<!-- results:one -->`\n<!-- results:one -->\nold\n<!-- /results -->\nafter\n")
    assert script.main([*words, "--check"]) == 1
    assert "old" in page.read_text()
    assert script.main(words) == 0
    text = page.read_text()
    assert text.startswith("before `<!-- results:one -->`\n<!-- results:one -->\n| model |")
    assert text.endswith("\n<!-- /results -->\nafter\n")
    assert script.main([*words, "--check"]) == 0
    page.write_text(text.replace("50.0", "55.0"))
    assert script.main([*words, "--check"]) == 1


def test_no_results_yet(script):
    assert script.results_table([]) == "No results yet."


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<!-- results:one -->\n", "not closed"),
        ("<!-- results:one -->\n<!-- results:one -->\n<!-- /results -->\n", "not closed"),
        ("<!-- results:two -->\n<!-- /results -->\n", "no file two.jsonl"),
    ],
)
def test_bad_blocks(script, tmp_path, text, error, capsys):
    (tmp_path / "one.jsonl").write_text("")
    with pytest.raises(SeedHubError, match=error):
        script.regenerate(text, tmp_path)
    (tmp_path / "page.md").write_text(text)
    assert script.main([str(tmp_path / "page.md"), "--results", str(tmp_path)]) == 2
    assert error in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == text


def test_the_tables_of_this_project_are_up_to_date(root):
    done = subprocess.run(
        [sys.executable, str(root / "eval" / "tables.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_zoo(script, tmp_path):
    """A row per student that was distilled; gaps by hand; what is published in a column of its own."""
    measured = {"untrained:seed_resnet18": 2.0, "alone_resnet18": 10.0, "cc_resnet18": 25.0, "teacher": 30.0}
    measured |= {"cc_vit_tiny": 20.0, "alone_resnet34": 9.0, "seed_resnet18": 99.0}
    lines = [line(value=value, name=name, sha=name) for name, value in measured.items()]
    lines.append(line(value=27.0, name="cc_resnet18", sha="another training"))
    lines += [
        line("linear", 70.0, name="teacher", sha="teacher", protocol_="seed"),
        line("linear", 50.0, name="teacher"),
    ]
    text = script.zoo_table(lines, ["knn", "cc", "teacher"], tmp_path)
    assert text.splitlines()[2:4] == [
        "| `seed_resnet18` | 2.0 | 10.0 | 26.0 ± 1.4 (n = 2) | 80.0% |  |",
        "| `seed_vit_tiny` |  |  | 20.0 |  |  |",
    ]
    labelled = script.zoo_table(
        [*lines, line(value=40.0, name="supervised_resnet18", sha="x")], ["knn", "cc", "teacher"], tmp_path
    )
    assert (
        "| 2.0 | 10.0 | 40.0 | 26.0" in labelled
        and "with all labels" in labelled
        and "with all labels" not in text
    )
    assert "99" not in text and "`teacher`, which has 30.0" in text
    two = script.zoo_table(lines, ["knn", "cc", "teacher", "seed"], tmp_path)
    assert "| gap closed | **distilled**, `seed` |" in two
    assert "| `seed_resnet18` | 2.0 | 10.0 | 26.0 ± 1.4 (n = 2) | 80.0% | 99.0 |  |" in two
    (tmp_path / "published").mkdir()
    read = {"student": "seed_resnet18", "protocol": "knn", "read_in": "a table"}
    recalled = read | {"recipe": "moco_v2_resnet50", "value": 43.4, "read_in": "from memory"}
    published = [
        read | {"recipe": "alone", "value": 36.7},
        recalled,
        recalled | {"protocol": "linear", "value": 1.0},
    ]
    (tmp_path / "published/seed.jsonl").write_text("".join(json.dumps(each) + "\n" for each in published))
    assert "| 80.0% | 36.7 → *43.4* |" in script.zoo_table(lines, ["knn", "cc", "teacher"], tmp_path)
    with pytest.raises(SeedHubError, match="no knn result of t2: measure it"):
        script.zoo_table(lines, ["knn", "cc", "t2"], tmp_path)
    with pytest.raises(SeedHubError, match="no linear result of a student by cc"):
        script.zoo_table(lines, ["linear", "cc", "teacher"], tmp_path)
    with pytest.raises(SeedHubError, match="zoo takes a protocol, a method and a teacher"):
        script.zoo_table(lines, ["linear"], tmp_path)


def test_teachers_are_called_by_their_names(script):
    facts = {"teacher": "seed:seed_resnet18.tag + file:x.safetensors?arch=resnet18 + seed:big?head=none"}
    assert "| s | seed_resnet18.tag + x + big |" in script.results_table([line(name="s", facts=facts)])


def test_few_labels(script):
    """A row per student that was fine-tuned after distilling; frozen networks, and ways nobody measured, have no column."""

    def measured(name, value, **settings):
        found = line("semi", value, name=name, sha=name, **settings)
        return found | {"metric": "top1_10pct", "values": {"top1_10pct": found["values"]["top1"]}}

    lines = [
        measured("untrained:seed_resnet18", 3.0),
        measured("cc_resnet18", 9.0),
        measured("cc_vit_tiny", 5.0),
        measured("untrained:seed_resnet34", 3.3),
        measured("cc_resnet18", 70.0, mode="frozen"),
    ]
    assert script.few_labels_table(lines, ["cc"]).splitlines()[:4] == [
        "| student | 10 % of labels\\*, from scratch | 10 % of labels\\*, **distilled** |",
        "| --- | ---: | ---: |",
        "| `seed_resnet18` | 3.0 | 9.0 |",
        "| `seed_vit_tiny` |  | 5.0 |",
    ]
    alone = script.few_labels_table([*lines, measured("alone_resnet18", 6.0)], ["cc"])
    assert "| `seed_resnet18` | 3.0 | 6.0 | 9.0 |" in alone
    with pytest.raises(SeedHubError, match="no semi result of a student by seed, fine-tuned"):
        script.few_labels_table(lines, ["seed"])
    both = script.few_labels_table([*lines, measured("ensemble_resnet18", 9.5)], ["cc", "ensemble"])
    assert "**distilled**, `cc`" in both and both.splitlines()[2].endswith("| 9.5 |")
    with pytest.raises(SeedHubError, match="labels takes at least one method"):
        script.few_labels_table(lines, [])


def test_released_weights(script):
    weight = Weight("seed_resnet18.tag", "0" * 64, "cc-by-nc-4.0", "", tensors="a")
    lines = [
        line(value=20.0),
        line("linear", 30.0),
        line("linear", 40.0, protocol_="seed"),
        line(name="b", sha="b"),
    ]
    assert "| [seed_resnet18.tag](model_cards/seed_resnet18.tag) | cc-by-nc-4.0 | 11.2 | 20.0 | 30.0 |" in (
        script.weights_table(lines, ["knn", "linear"], [weight])
    )
    other = replace(weight, tensors="b")
    with pytest.raises(SeedHubError, match=r"no linear result of seed_resnet18\.tag"):
        script.weights_table(lines, ["knn", "linear"], [other])
    assert script.weights_table(lines, ["knn"], []) == "No weights are released yet."


def test_precision_may_differ_within_a_table(script):
    script.results_table([line(precision="bf16"), line(name="b", precision="fp32")])


def test_results_are_lines_of_evaluations_only(root):
    """`report`, `info` and `card` read all of them."""
    lines = [line for path in (root / "eval" / "results").glob("*.jsonl") for line in results(path)]
    assert lines and all({"protocol", "metric", "value", "model", "data"} <= line.keys() for line in lines)

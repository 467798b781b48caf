"""Tables are a function of the results: regenerated, checked, and refused when the results do not fit together."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from seed_hub.errors import SeedHubError


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
    **settings,
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
        "settings": {"size": size, "batch_size": 256, "features": "pooled", **settings},
        "commit": "0123456789abcdef",
        "dirty": False,
        "machine": {"cpu": "a processor", "cores": 2, "threads": 1, "gpu": None},
    }


def test_a_table(script):
    facts = {"method": "seed", "images_seen": 1_200_000}
    found = script.tables(
        [line(name="teacher"), line(name="s", facts=facts), line("linear", 61.25, name="s", top5=80.0)]
    )
    assert found.splitlines() == [
        "| model | method | images seen | input, px | k-NN (k = 20), % | linear top-1, % | linear top-5, % |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        "| teacher |  |  | 64 | 50.0 |  |  |",
        "| s | seed | 1,200,000 | 64 | 50.0 | 61.2 | 80.0 |",
        "",
        "Features of d train (1,000 images); tested on d (1,000 images). knn: features pooled; linear: features pooled. "
        "n = 1 where none is given. Measured on a processor, 2 cores, at commit 0123456789.",
    ]


def test_n_mean_and_deviation(script):
    several = script.tables([line(value=v, sha=s) for v, s in ((50.0, "a"), (52.0, "b"), (54.0, "c"))])
    assert "| m | 64 | 52.0 ± 2.0 (n = 3) |" in several
    assert "| m | 64 | 50.0 ± 0.5 (n = 4) |" in script.tables([line(std=0.5, n=4)])
    seeds = script.tables([line("linear", 50.0, seed=0), line("linear", 51.0, seed=1)])
    assert "| m | 64 | 50.5 ± 0.7 (n = 2) |" in seeds


def test_the_last_measurement_counts(script):
    assert "| m | 64 | 51.0 |" in script.tables([line(value=50.0), line(value=51.0)])


def test_sizes_are_rows_and_data_are_tables(script):
    other = line()
    other["data"]["test"]["source"] = "elsewhere"
    found = script.tables([line(), line(value=60.0, size=128), other])
    assert "| m | 128 | 60.0 |" in found
    assert found.count("| model |") == 2


def test_settings_of_a_column_must_agree(script):
    script.tables([line(), line(name="b", batch_size=1, k=[20], device="cpu")])
    with pytest.raises(SeedHubError, match="knn results .* different temperature \\(0.07 and 0.1\\)"):
        script.tables([line(temperature=0.07), line(name="b", temperature=0.1)])


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
    assert script.tables([]) == "No results yet."


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


def test_gaps_closed(script, tmp_path):
    rows = [line(value=v, name=f"seed:{n}", sha=n) for n, v in (("a", 10.0), ("t", 30.0), ("s", 25.0))]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = script.regenerate("<!-- gaps:one s/a/t -->\nold\n<!-- /gaps -->\n", tmp_path)
    assert "- `s` closes the gap from `a` to `t` by 75% in k-NN (k = 20) (10.00 to 30.00: 25.00).\n" in text
    assert "old" not in text
    with pytest.raises(SeedHubError, match="no knn result"):
        script.regenerate("<!-- gaps:one s/b/t -->\n<!-- /gaps -->\n", tmp_path)


def test_precision_may_differ_within_a_table(script):
    assert "precision bf16 or fp32" in script.tables(
        [line(precision="bf16"), line(name="b", precision="fp32")]
    )

"""Settings are read as text; what is read must be what the class says."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from operator import itemgetter
from pathlib import Path

import pytest

from seed_hub.settings import Declared, Option, declared_in, read_settings

PACKAGE = Path(__file__).resolve().parents[1] / "seed_hub"
METHODS = sorted(path for path in (PACKAGE / "training" / "methods").glob("[!_]*.py"))
PROTOCOLS = sorted(
    path for path in (PACKAGE / "eval").glob("[!_]*.py") if "\nclass Settings" in path.read_text()
)
EVERY = [
    *((path, "Settings") for path in [*METHODS, *PROTOCOLS]),
    (PACKAGE / "training" / "settings.py", "RunSettings"),
    (PACKAGE / "cli" / "embed.py", "EmbedSettings"),
    (PACKAGE / "cli" / "export.py", "ExportSettings"),
    (PACKAGE / "cli" / "pack.py", "PackSettings"),
    (PACKAGE / "cli" / "cache.py", "CacheSettings"),
    (PACKAGE / "bench" / "settings.py", "BenchSettings"),
]

SOURCE = '''"""A method: of the test.

More of it.
"""

PRESETS = {"cold": {"temperature": 0.01}}
COMPUTED = 2 ** 3

class Settings:
    """Hyper-parameters."""

    queue_size: int = 65536
    """K, how many
    are kept"""
    temperature: float = -1e-4
    """tau"""
    rates: tuple[float, ...] = (0.1, 1.0)
    """to choose from"""
    name: str = ""
    """a name"""
    fast: bool = False
    """be quick"""

class Thing:
    needs_teacher = False
'''


@pytest.fixture
def declared(tmp_path: Path) -> Declared:
    path = tmp_path / "thing.py"
    path.write_text(SOURCE)
    return read_settings(path)


def test_what_is_read(declared: Declared) -> None:
    assert declared.name == "thing"
    assert declared.summary == "A method: of the test."
    assert declared.constants == {"PRESETS": {"cold": {"temperature": 0.01}}, "needs_teacher": False}
    assert declared.options == (
        Option("queue_size", int, False, 65536, "K, how many are kept"),
        Option("temperature", float, False, -1e-4, "tau"),
        Option("rates", float, True, (0.1, 1.0), "to choose from"),
        Option("name", str, False, "", "a name"),
        Option("fast", bool, False, False, "be quick"),
    )
    assert declared.options[0].flag == "--queue-size"
    assert declared.options[4].flag == "--fast"
    assert Option("flip", bool, False, True, "mirror").flag == "--no-flip"


def test_fields_of_bases_follow_and_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "thing.py"
    path.write_text(
        SOURCE + "from seed_hub.network_settings import NetworkSettings\n"
        "class Near(Settings, NetworkSettings):\n    size: int = 8\n    '''of ours'''\n"
        "class Far(Unknown):\n    pass\n"
    )
    near = read_settings(path, "Near").options
    assert near[0] == Option("size", int, False, 8, "of ours")
    assert [option.name for option in near[1:3]] == ["queue_size", "temperature"]
    assert {"workers", "device"} <= {option.name for option in near}
    assert len({option.name for option in near}) == len(near)
    with pytest.raises(TypeError, match="Unknown is not imported"):
        read_settings(path, "Far")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('    """tau"""\n', "", "temperature has no docstring"),
        ("-1e-4", "1 / 3 * len('abc')", "temperature is not a literal"),
        ("temperature: float = -1e-4", "temperature: float", "temperature has no default"),
        ("temperature: float", "temperature: Path", "Path is none of"),
        ("class Settings", "class Other", "has no class Settings"),
    ],
)
def test_what_breaks_the_rule_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "thing.py"
    assert old in SOURCE
    path.write_text(SOURCE.replace(old, new))
    with pytest.raises(TypeError, match=says):
        read_settings(path)


@pytest.mark.parametrize(("path", "name"), EVERY, ids=[path.stem for path, _ in EVERY])
def test_every_settings_class_is_read_as_it_is(path: Path, name: str) -> None:
    module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    cls = getattr(module, name)
    assert cls.__dataclass_params__.frozen
    types = typing.get_type_hints(cls)
    read = [
        (o.name, tuple[o.kind, ...] if o.several else o.kind, o.default)
        for o in read_settings(path, name).options
    ]
    assert sorted(read, key=itemgetter(0)) == sorted(
        ((f.name, types[f.name], f.default) for f in dataclasses.fields(cls)), key=itemgetter(0)
    )


def test_every_method_and_protocol_is_found() -> None:
    assert list(declared_in(PACKAGE / "training" / "methods")) == [path.stem for path in METHODS]
    assert {"seed", "moco"} <= {path.stem for path in METHODS}
    from seed_hub.eval import protocols

    assert list(declared_in(PACKAGE / "eval")) == protocols()


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_methods_fit_the_command_line(path: Path) -> None:
    """No flag means two things, and presets set what there is."""
    run = {
        option.name for option in read_settings(PACKAGE / "training" / "settings.py", "RunSettings").options
    }
    declared = read_settings(path)
    own = {option.name for option in declared.options}
    assert not own & (run | {"preset", "resume", "overwrite", "json", "debug"})
    for preset in declared.constants.get("PRESETS", {}).values():
        assert preset.keys() <= own
    from seed_hub.training.methods import method_class

    assert declared.constants.get("needs_teacher", True) == method_class(path.stem).needs_teacher


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_protocols_offer_what_the_command_line_calls(path: Path) -> None:
    module = importlib.import_module(f"seed_hub.eval.{path.stem}")
    assert isinstance(module.HEADLINE, str)
    given = inspect.signature(module.evaluate).parameters
    assert list(given)[:4] == ["encoder", "train", "test", "settings"]
    assert "progress" in given
    assert {"size", "batch_size", "workers", "device"} <= {o.name for o in read_settings(path).options}

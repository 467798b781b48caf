"""Flags of the commands: made from settings classes, and refused in one sentence when they are not there."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from seed_hub.errors import SeedHubError, nearest
from seed_hub.settings import Option

_METAVAR = {int: "N", float: "X"}


class _Formatter(argparse.HelpFormatter):
    """Flags are not broken at their hyphens, so that they can be searched for and copied."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 30, **options})

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """One command's flags. A flag that was not given is absent from the result, so that "given" can be told."""

    def __init__(self, command: str, description: str = "") -> None:
        super().__init__(
            prog=f"seed-hub {command}",
            usage=f"seed-hub {command} [flags]",
            description=description,
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=_Formatter,
        )

    def error(self, message: str) -> NoReturn:
        raise SeedHubError(f"{message}; see `{self.prog} --help`.")

    def add_options(
        self,
        title: str,
        options: Sequence[Option],
        *,
        summary: str | None = None,
        required: Collection[str] = (),
        skip: Collection[str] = (),
        repeated: Collection[str] = (),
    ) -> None:
        """A group of flags from the fields of a settings class; those ``repeated`` may be given several times, and come
        as a tuple."""
        group = self.add_argument_group(title, summary)
        for option in options:
            if option.name not in skip:
                _add(group, option, option.name in required, option.name in repeated)

    def parse(self, argv: Sequence[str], *, elsewhere: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What was given, by name.

        Args:
            elsewhere: flags this command does not take, with the sentence that says where they belong.
        """
        output = self.add_argument_group("output")
        output.add_argument(
            "--json", action="store_true", help="print the result as JSON in the last line of stdout"
        )
        output.add_argument(
            "--debug", action="store_true", help="show tracebacks and the warnings of libraries"
        )
        output.add_argument("-h", "--help", action="help", help="show this text")
        given, unknown = self.parse_known_args(argv)
        if unknown:
            self._refuse(unknown[0], elsewhere or {})
        values = vars(given)
        for name in ("json", "debug"):  # main has read them
            values.pop(name, None)
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    def need(self, given: Mapping[str, Any], *names: str) -> None:
        """Raises SeedHubError for the first of ``names`` that was not given, or is empty."""
        for name in names:
            if not given.get(name):
                raise SeedHubError(f"--{name.replace('_', '-')} is missing; see `{self.prog} --help`.")

    def _refuse(self, word: str, elsewhere: Mapping[str, str]) -> NoReturn:
        flag = word.split("=")[0]
        if not flag.startswith("-"):
            raise SeedHubError(
                f'`{self.prog}` does not know what to do with "{word}"; see `{self.prog} --help`.'
            )
        if flag in elsewhere:
            raise SeedHubError(elsewhere[flag])
        known = [text.lstrip("-") for action in self._actions for text in action.option_strings]
        hint = nearest(flag.lstrip("-"), known).replace(' "', ' "--')  # compared without the dashes all have
        raise SeedHubError(f"`{self.prog}` has no option {flag}." + (hint or f" See `{self.prog} --help`."))


def _add(group: argparse._ArgumentGroup, option: Option, required: bool, repeated: bool) -> None:
    text = option.help.replace("%", "%%")
    if option.kind is bool:
        # A flag that is on by default is documented as the one that turns it off.
        name = option.flag if not option.default else "--no-" + option.flag[2:]
        group.add_argument(
            name, dest=option.name, action=f"store_{str(not option.default).lower()}", help=text
        )
        return
    default = "required" if required else _default(option)
    if repeated:
        default += "; may be given several times"
    group.add_argument(
        option.flag,
        action="append" if repeated else "extend" if option.several else "store",  # none is dropped
        type=_READ[option.kind],
        nargs="+" if option.several else None,
        metavar=_METAVAR.get(option.kind),
        help=text + (f" ({default})" if default else ""),
    )


def _default(option: Option) -> str:
    values = option.default if option.several else (option.default,)
    text = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return f"default: {text}" if text else ""


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)  # 1e6
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value != int(value):
        raise argparse.ArgumentTypeError(f'a whole number is needed, not "{text}"')
    return int(value)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f'a number is needed, not "{text}"')
    return value


_READ: dict[type, Callable[[str], Any]] = {str: str, int: _whole, float: _number}

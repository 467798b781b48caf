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
_TRUTHS = ("true", "false", "yes", "no", "on", "off", "1", "0")


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
        self._refuse_values(argv)
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

    def _refuse_values(self, argv: Sequence[str]) -> None:
        """Raises SeedHubError for a switch with a value, or one that is on and was named to turn it on or off."""
        switches = {text for action in self._actions if action.nargs == 0 for text in action.option_strings}
        known = {text for action in self._actions for text in action.option_strings}
        truths = (
            _TRUTHS if all(action.option_strings for action in self._actions) else ()
        )  # else a folder "1"
        for word, after in zip(argv, [*argv, ""][1:], strict=True):
            flag, equals, _ = word.partition("=")
            off = flag.replace("--", "--no-", 1)
            if off in switches and flag not in known:
                raise SeedHubError(
                    f"{flag} takes no value and is on already: leave it out, or turn it off with {off}."
                )
            if flag in switches and (equals or after.lower() in truths):
                raise SeedHubError(f"{flag} takes no value: give it alone, or leave it out.")

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
        action = f"store_{str(not option.default).lower()}"
        help = f"turn off: {text}" if option.default else text  # the text says what is on
        group.add_argument(option.flag, dest=option.name, action=action, help=help)
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

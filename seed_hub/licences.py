"""Licence lineage: the terms of the teacher, the images and the start -> what the student may carry.

The most restrictive terms win. Whether a distilled student is a derivative work of its teacher is a question of law that
this file does not answer: it takes the careful view that it is, of everything it learnt from. The table says how terms
were read, not what a court would say; a licence that is not in it is refused, not guessed.

The result is kept in ``config.json`` under ``"seed_hub"``, on the card, and in the header of the safetensors file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from seed_hub.errors import SeedHubError, nearest


class Rank(IntEnum):
    """How much terms forbid: the larger the more."""

    FREE = 0
    ATTRIBUTION = 1
    SHARE_ALIKE = 2
    AGREEMENT = 3
    NON_COMMERCIAL = 4
    NO_DERIVATIVES = 5


@dataclass(frozen=True)
class Licence:
    """Terms, as this project reads them."""

    identifier: str
    """as the Hub's list has it, or as timm names it"""
    rank: Rank
    obligations: str
    """what whoever publishes has to do"""
    same_terms: bool = False
    """derived works carry the same licence, and no other"""
    listed: bool = True
    """an identifier of the Hub's list; others go there as "other", with a name"""
    copy: bool = False
    """a copy of its text goes along"""
    carried: str = ""
    """what a student carries for it, if not the same: for terms that are no licence to publish under"""


_SHARE = "derived works carry the same licence"
_CREDIT = "name the authors and the licence"
_NOTICE = "keep the copyright notice and the licence's text"
_NO_SALE = "no commercial use"

TABLE = (
    Licence("own", Rank.FREE, "none: they are the publisher's", listed=False, carried="apache-2.0"),
    Licence("cc0-1.0", Rank.FREE, "none", carried="apache-2.0"),
    Licence("mit", Rank.ATTRIBUTION, _NOTICE),
    Licence("apache-2.0", Rank.ATTRIBUTION, f"{_NOTICE}, and say what was changed"),
    Licence("bsd-2-clause", Rank.ATTRIBUTION, _NOTICE),
    Licence("bsd-3-clause", Rank.ATTRIBUTION, f"{_NOTICE}; the authors' names endorse nothing"),
    Licence("cc-by-3.0", Rank.ATTRIBUTION, _CREDIT),
    Licence("cc-by-4.0", Rank.ATTRIBUTION, _CREDIT),
    Licence("cc-by-sa-3.0", Rank.SHARE_ALIKE, f"{_CREDIT}; {_SHARE}", same_terms=True),
    Licence("cc-by-sa-4.0", Rank.SHARE_ALIKE, f"{_CREDIT}; {_SHARE}", same_terms=True),
    Licence("gpl-3.0", Rank.SHARE_ALIKE, f"offer the source; {_SHARE}", same_terms=True),
    Licence("agpl-3.0", Rank.SHARE_ALIKE, f"offer the source, to users over a network too; {_SHARE}", True),
    Licence("apple-ascl", Rank.AGREEMENT, "keep Apple's notice, and do not use its name to endorse"),
    Licence(
        "dinov3-license",
        Rank.AGREEMENT,
        f"{_SHARE}, with a copy of it; acknowledge DINOv3 in publications",
        same_terms=True,
        listed=False,
        copy=True,
    ),
    Licence(
        "nvidia-open-model-license",
        Rank.AGREEMENT,
        "a copy of the agreement and NVIDIA's notice go along",
        listed=False,
        copy=True,
    ),
    Licence(
        "research-only",
        Rank.NON_COMMERCIAL,
        "non-commercial research only, as the terms of ImageNet have it",
        listed=False,
        carried="cc-by-nc-4.0",
    ),
    Licence("cc-by-nc-4.0", Rank.NON_COMMERCIAL, f"{_CREDIT}; {_NO_SALE}"),
    Licence("cc-by-nc-sa-4.0", Rank.NON_COMMERCIAL, f"{_CREDIT}; {_NO_SALE}; {_SHARE}", same_terms=True),
    Licence(
        "fair-noncommercial-research-license",
        Rank.NON_COMMERCIAL,
        f"{_NO_SALE}; {_SHARE}, with a copy of it",
        same_terms=True,
        copy=True,
    ),
    Licence("cc-by-nd-4.0", Rank.NO_DERIVATIVES, f"{_CREDIT}; share nothing derived from it"),
    Licence("cc-by-nc-nd-4.0", Rank.NO_DERIVATIVES, f"{_CREDIT}; {_NO_SALE}; share nothing derived from it"),
)
KNOWN = {licence.identifier: licence for licence in TABLE}


@dataclass(frozen=True)
class Source:
    """Something the student learnt from."""

    role: str
    """teacher, images or start"""
    name: str
    licence: str
    """an identifier of the table"""


@dataclass(frozen=True)
class Lineage:
    """What the student carries, and why it may."""

    sources: tuple[Source, ...]
    licence: Licence
    allowed: str | None
    """what the sources ask for; None if nothing satisfies all of them"""
    override: str = ""
    """why it is published under other terms than these"""

    @property
    def terms(self) -> tuple[Licence, ...]:
        """One for each source."""
        return tuple(KNOWN[source.licence] for source in self.sources)

    def as_json(self) -> dict[str, Any]:
        """For config.json: identifiers, no obligations."""
        return {
            "licence": self.licence.identifier,
            "allowed": self.allowed,
            "override": self.override or None,
            "sources": [asdict(source) for source in self.sources],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Lineage:
        """What :meth:`as_json` wrote; KeyError or TypeError if something else did."""
        sources = tuple(Source(**source) for source in content["sources"])
        licence = KNOWN[content["licence"]]
        return cls(sources, licence, content["allowed"], content["override"] or "")


def most_restrictive(licences: Sequence[str]) -> str | None:
    """Of terms that all bind, those that forbid most; None where some are "unknown" and may forbid more than the rest.

    One that is not in the table comes first: it cannot be ranked, and :func:`decide` refuses it.
    """
    known = [each for each in licences if each != "unknown"]
    if unlisted := [each for each in known if each not in KNOWN]:
        return unlisted[0]
    first = max((KNOWN[each] for each in known), key=_strictness, default=None)
    if first is None or ("unknown" in licences and first.rank < Rank.NON_COMMERCIAL):
        return None
    return first.identifier


def recorded_licence(licence: str | None, facts: dict[str, Any]) -> str | None:
    """What binds those who learn or start from a model, by its config.json; None if that does not say.

    A run records the terms of its teachers and of what it started from; those of its images only a card adds.

    Args:
        licence: of ``pretrained_cfg``.
        facts: under ``"seed_hub"``.
    """
    if facts.get("lineage"):
        return licence or facts["lineage"].get("licence")
    taught, start = facts.get("teacher_licence"), facts.get("start_licence")
    return most_restrictive([each for each in (licence, start, *(taught or "").split(" + ")) if each])


def find_licence(identifier: str, what: str, flag: str) -> Licence:
    """The entry of the table.

    Args:
        what: whose terms these are, to begin a sentence with.
        flag: how to name others.

    Raises:
        SeedHubError: the terms are not known.
    """
    if identifier in KNOWN:
        return KNOWN[identifier]
    said, hint = "are not known", ""
    if identifier not in ("", "unknown"):
        said, hint = f'say "{identifier}", which is none of the known', nearest(identifier, KNOWN)
    raise SeedHubError(f"The terms of {what} {said}: name them with {flag} ({', '.join(KNOWN)}).{hint}")


def decide(sources: Sequence[Source], licence: str = "", override: str = "") -> Lineage:
    """What the student carries: ``licence`` if the sources allow it, by default the least strict that they do.

    Args:
        override: the reason to go on where they do not.

    Raises:
        SeedHubError: terms that are not known, that contradict each other or are stricter than ``licence``, without a
            reason to go on; or a reason and nothing to override.
    """
    terms = [find_licence(s.licence, f"the {s.role} {s.name}", f"--{s.role}-licence") for s in sources]
    strictest = max(terms, key=_strictness)
    allowed, problem = _allowed(strictest, terms)
    chosen = (
        find_licence(licence or allowed or "", "the student", "--licence") if licence or allowed else None
    )
    if chosen is not None and chosen.carried and not chosen.listed:
        raise SeedHubError(
            f'"{chosen.identifier}" is no licence to publish under: name another with --licence.'
        )
    if not problem and chosen is not None and not _satisfies(chosen, strictest, allowed):
        problem = f"The terms of {strictest.identifier} do not let the student carry {chosen.identifier}"
    if problem and not override.strip():
        instead = (
            f"leave --licence out for {allowed}" if allowed else "train with another teacher or other images"
        )
        raise SeedHubError(
            f'{problem} ({_listing(sources)}): {instead}, or give --licence and --override-licence "REASON", '
            "which is printed on the card."
        )
    if problem and chosen is None:
        raise SeedHubError(f"{problem}: with --override-licence name the student's own --licence.")
    if override and not problem:
        raise SeedHubError(
            f"--override-licence has nothing to override: {chosen.identifier if chosen else allowed} is allowed; leave it out."
        )
    assert chosen is not None
    return Lineage(tuple(sources), chosen, allowed, " ".join(override.split()))


def _strictness(licence: Licence) -> tuple[Rank, bool]:
    return licence.rank, licence.same_terms


def _allowed(strictest: Licence, terms: Sequence[Licence]) -> tuple[str | None, str]:
    """(what satisfies all ``terms``, or None; why nothing does)."""
    if strictest.rank is Rank.NO_DERIVATIVES:
        return None, f"The terms of {strictest.identifier} let nobody share what is derived from it"
    for each in terms:
        if each.same_terms and each.identifier != strictest.identifier:
            return (
                None,
                f"The terms of {each.identifier} want derived works under themselves, and {strictest.identifier} is stricter",
            )
    return strictest.carried or strictest.identifier, ""


def _satisfies(chosen: Licence, strictest: Licence, allowed: str | None) -> bool:
    if strictest.same_terms:
        return chosen.identifier == allowed
    return chosen.rank >= strictest.rank


def _listing(sources: Sequence[Source]) -> str:
    return "; ".join(f"{source.role} {source.name}: {source.licence}" for source in sources)

"""Files behind a URL (``s3://``, ``gs://``, ``hf://``, ``https://``, ...), through fsspec: which there are, parts of them.

Nothing is kept between calls: fsspec has one client per process and thread, and makes a new one after a fork.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from seed_hub.errors import SeedHubError, nearest

R = TypeVar("R")

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # s between tries: a storage that is busy asks for exponential patience
_FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)


def is_remote(source: str) -> bool:
    return "://" in source


def file_name(place: str) -> str:
    """The last part of a path or URL, without what a signed URL carries behind a question mark."""
    return os.path.basename(urlsplit(place).path if is_remote(place) else place)


def list_remote(url: str, wanted: Callable[[str], bool]) -> list[str]:
    """The URLs that ``url`` stands for: those matching its ``*``, itself if it is ``wanted``, else the wanted files of
    the folder and of the folders right inside it; sorted, none where there is no such folder."""
    if "*" in url:
        found = _patiently(url, lambda files, path: [files.unstrip_protocol(p) for p in files.glob(path)])
    elif wanted(url):  # spelled as a listing spells it: what is remembered of it goes by its name
        return [_patiently(url, lambda files, path: files.unstrip_protocol(path))]
    else:
        found = _patiently(
            url, lambda files, path: [files.unstrip_protocol(p) for p in files.find(path, maxdepth=2)]
        )
    return sorted(file for file in found if wanted(file))


def size_and_stamp(url: str) -> tuple[int, str]:
    """(bytes, what changes when the file does, as far as its storage tells).

    Raises:
        SeedHubError: there is no such file, or its storage does not tell its size.
    """
    info, stamp = _patiently(url, lambda files, path: (files.info(path), files.ukey(path)))
    if info.get("size") is None or info.get("type") == "directory":
        raise SeedHubError(f'"{url}" is no file of known size, so no part of it can be read: download it.')
    return int(info["size"]), str(stamp)


def read_remote(url: str, start: int, size: int) -> bytes:
    """``size`` bytes from byte ``start``, by one request.

    Raises:
        SeedHubError: they did not come in six tries.
    """

    def ask(files: Any, path: str) -> bytes:
        data = files.cat_file(path, start=start, end=start + size)
        if len(data) != size:  # a broken connection, or a server that sends the whole file instead
            raise EOFError(f"{len(data):,} bytes came instead of the {size:,} from byte {start:,}")
        return data

    return _patiently(url, ask)


def read_if_there(url: str) -> bytes | None:
    """All of a small file, or None where there is none."""
    return _patiently(url, lambda files, path: files.cat_file(path) if files.exists(path) else None)


def copy_file(url: str, copy: Path, size: int) -> None:
    """``url``, of ``size`` bytes, as the file ``copy``: all of it, or none.

    Raises:
        SeedHubError: it did not come in six tries, or there is no room for it.
    """
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".part-") as folder:
            part = Path(folder) / copy.name

            def get(files: Any, path: str) -> None:
                files.get_file(path, str(part))
                if part.stat().st_size != size:
                    raise EOFError(f"{part.stat().st_size:,} bytes came instead of {size:,}")

            free = shutil.disk_usage(folder).free
            if free < size:
                raise OSError(errno.ENOSPC, f"{free:,} bytes are free and {size:,} are needed")
            _patiently(url, get)
            os.replace(part, copy)
    except OSError as error:
        raise SeedHubError(
            f'"{url}" cannot be kept in {copy.parent}: {error.strerror}. Make room there, or set XDG_CACHE_HOME.'
        ) from error


def _patiently(url: str, ask: Callable[[Any, str], R]) -> R:
    """``ask(filesystem, path)``, again after a pause where it fails."""
    for pause in (*PAUSES, None):
        try:
            return ask(*_filesystem(url))
        except SeedHubError:
            raise
        except Exception as error:  # each storage's client has its own types
            if pause is None or isinstance(error, _FOR_GOOD):
                raise _unreadable(url, error) from error
            # Not all workers at the same moment; and no number drawn from the state that a run depends on.
            time.sleep(pause * random.SystemRandom().uniform(0.5, 1.5))
    raise AssertionError("the last try returns or raises")


def _filesystem(url: str) -> tuple[Any, str]:
    """(fsspec's filesystem, the path in it)."""
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    protocol = url.partition("://")[0].rpartition("::")[2]
    try:
        return url_to_fs(url)
    except ImportError as error:
        raise SeedHubError(
            f'"{protocol}://" needs a package that is not installed: {_installation(protocol)}.'
        ) from error
    except ValueError as error:
        if protocol in known_implementations:
            raise
        raise SeedHubError(
            f'"{url}": there is no protocol "{protocol}".{nearest(protocol, known_implementations)}'
        ) from error


def _installation(protocol: str) -> str:
    """How to install what ``protocol`` needs: the extra of fsspec for the same client, else the client's package."""
    from fsspec.registry import known_implementations

    client = known_implementations[protocol]["class"]
    for extra in metadata.metadata("fsspec").get_all("Provides-Extra") or ():
        if known_implementations.get(extra, {}).get("class") == client:
            return f'pip install "fsspec[{extra}]"'
    package = client.partition(".")[0]
    return f"pip install {package}" if package != "fsspec" else known_implementations[protocol]["err"]


def _unreadable(url: str, error: Exception) -> SeedHubError:
    if isinstance(error, FileNotFoundError):
        return SeedHubError(f'No file "{url}": check the spelling.')
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    tries = "" if isinstance(error, _FOR_GOOD) else f" in {len(PAUSES) + 1} tries"
    return SeedHubError(
        f'"{url}" could not be read{tries} ({reason}): check the network and the permission, '
        "or download the files first; a run that this stopped continues with --resume."
    )

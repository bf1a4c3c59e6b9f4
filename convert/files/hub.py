"""Checkpoints on the Hugging Face Hub, "hf://owner/name" or "hf://owner/name/file", through ``huggingface_hub``."""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from convert.errors import RefusedError, shown
from convert.files.folders import USUAL, is_index, shards_of

ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+?)(?:@([\w./-]+?))?(?:/([^@]+))?")
"""owner/name, a revision behind @, and a file. ``pathlib.Path`` makes one slash of the two."""


def is_remote(path: str | os.PathLike) -> bool:
    """Whether ``path`` is an address on the Hub."""
    return os.fspath(path).startswith("hf:/")


def local_copy(address: str | os.PathLike) -> Path:
    """The file at ``address`` in the cache of ``huggingface_hub``, downloaded if it is not there.

    Without a file, the first of the usual names that the repository has is taken. With an index come its shards.
    The settings of ``huggingface_hub`` hold: ``HF_HOME``, ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_TOKEN``.

    Raises:
        RefusedError: if the address is none, if ``huggingface_hub`` is not installed, or if there is no such
            repository or file, or no connection.
    """
    found = ADDRESS.fullmatch(os.fspath(address))
    if not found:
        raise RefusedError("expected an address such as hf://owner/name or hf://owner/name/model.safetensors")
    repository, revision, file = found.groups()
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise RefusedError('hf:// addresses need huggingface_hub: pip install "flax_attn[hub]"') from error
    place = _first(hub, repository, revision, [file] if file else list(USUAL))
    for name in shards_of(place) if is_index(place) else ():
        beside = f"{file.rpartition('/')[0]}/{name}".lstrip("/") if file else name
        _first(hub, repository, revision, [beside])
    return place


def _first(hub: Any, repository: str, revision: str | None, names: list[str]) -> Path:
    """The first of the files ``names`` that the repository has. Without a connection, only the cache is looked at."""
    offline = False
    for name in names:
        try:
            return _download(hub, repository, revision, name, local_files_only=offline)
        except hub.errors.LocalEntryNotFoundError:
            offline = True
        except hub.errors.EntryNotFoundError:
            pass
    where = "in the local cache, and there is no connection to the Hub" if offline else "there"
    raise RefusedError(f"expected {' or '.join(names[:3])} in {repository}, found no such file {where}")


def _download(hub: Any, repository: str, revision: str | None, name: str, **options: Any) -> Path:
    try:
        return Path(hub.hf_hub_download(repository, name, revision=revision, **options))
    except hub.errors.EntryNotFoundError:
        raise
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError, ValueError) as error:
        reason = shown(" ".join(str(error).split()))
        raise RefusedError(f"expected a file that can be downloaded: {type(error).__name__} {reason}") from error

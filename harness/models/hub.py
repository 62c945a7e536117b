"""Fetches checkpoints of models from the Hugging Face hub into the hub's own cache, where its clients find them too.

    <repository>/blobs/<digest>               a file, whole and checked
                 blobs/<digest>.incomplete    a part of one; the same command resumes it (HTTP Range)
                 snapshots/<commit>/<file>    links to blobs, made when all of them are there
                 refs/tofc-harness            the commit that the harness uses, written last

Only JSON and safetensors files are fetched, never a pickle, all of one commit, and each file is checked against the
digest that the hub publishes. The hub's own client discards a partial download and compares only sizes.
"""

import dataclasses
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx

from harness.data.download import SPARE_BYTES, Progress, Published, client_of, fetch, refuse_no_url
from harness.errors import CheckpointError, UnavailableError, shown, unknown_name
from harness.files import UNFINISHED, flush_folder, make_folder, why, write_whole
from harness.models import files
from harness.units import format_bytes

PUBLIC = "https://huggingface.co"
"""The hub, unless ``HF_ENDPOINT`` names another."""

INCOMPLETE = ".incomplete"
_TRUE = ("1", "ON", "YES", "TRUE")
_COMMIT = 40
"""Hexadecimal digits of a commit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file of a repository at a commit: its size and the digest under which the hub publishes and caches it."""

    name: str
    n_bytes: int
    kind: Literal["sha256", "git"]
    digest: str


def names() -> dict[str, str]:
    """The models that are fetched from the hub, with their ids there."""
    return {name: source for name, source in files.SOURCES.items() if isinstance(source, str)}


def find(name: str) -> str:
    """The hub id of a model; raises UnavailableError for one that is not fetched."""
    if name in files.SOURCES and name not in names():
        raise UnavailableError(f"{name}: is part of the harness, and is not fetched")
    if name not in names():
        raise UnavailableError(unknown_name("model", name, names()))
    return names()[name]


def get(name: str, *, revision: str | None = None, progress: Progress = lambda *_: None, pause_s: float = 1.0) -> Path:
    """The folder of a model's checkpoint in the hub's cache, downloaded unless it is complete.

    ``revision`` is a branch, tag or commit of the repository; by default the commit that is there, complete or in part,
    and else ``main``. The hub is not asked for a commit of which all is there. The commit is pinned: scenarios use it
    until another is fetched. ``HF_ENDPOINT`` may name a mirror.

    Raises UnavailableError, which says what to do, if it cannot be downloaded, would not fit on the disk, or has no
    safetensors; DataError if the download is not what is published. A partial download is kept.
    """
    hub_id = find(name)
    _refuse_empty(name, revision)
    here = files.snapshot_of(hub_id)
    if revision is None and here is not None:
        if files.first_absent(here) is None:
            return here
        revision = here.name
    elif revision is not None and (there := _whole(hub_id, revision)) is not None:
        _pin(there, (files.PINNED,))
        return there
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise UnavailableError(f"{name}: {hub_id} is not fetched while HF_HUB_OFFLINE is set")
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or PUBLIC
    refuse_no_url(endpoint, f"{name}: HF_ENDPOINT", PUBLIC)
    hub = _Hub(name, hub_id, endpoint, pause_s)
    commit, published = hub.listing(revision or "main")
    small = [blob for blob in published.values() if blob.name.endswith(".json")]
    for lacking in ("config.json", "tokenizer.json"):
        if lacking not in published:
            raise UnavailableError(f"{name}: {hub_id} has no {lacking} at {commit}; such a checkpoint cannot be run")
    weights = [blob for blob in published.values() if blob.name.endswith(".safetensors")]
    if not weights:
        raise UnavailableError(f"{name}: {hub_id} has no safetensors at {commit}; pickled weights are not fetched")
    told = 0

    def tell(done: int, _: int | None) -> None:
        progress(told + done, sum(blob.n_bytes for blob in (*small, *weights)))

    # The index comes first: a repository may hold the same weights twice.
    for blob in small:
        hub.fetch(commit, blob, tell)
        told += blob.n_bytes
    if files.INDEX in published:
        weights = _indexed(hub.blob(published[files.INDEX]), published)
    hub.refuse_size(weights)
    for blob in weights:
        hub.fetch(commit, blob, tell)
        told += blob.n_bytes
    progress(told, told)
    return hub.link(commit, [*small, *weights], is_main=revision in (None, "main"))


def _refuse_empty(name: str, revision: str | None) -> None:
    if revision is not None and not revision.strip():
        raise UnavailableError(f"{name}: the revision {shown(revision)} is empty; a branch, tag or commit is expected")


def state(hub_id: str) -> str:
    """``installed``, ``begun``, ``absent``, or ``damaged`` where the index of its files cannot be read."""
    here = files.snapshot_of(hub_id)
    try:
        is_whole = here is not None and files.first_absent(here) is None
    except CheckpointError:
        return "damaged"
    if is_whole:
        return "installed"
    blobs = files.hub_folder(hub_id) / "blobs"
    return "begun" if here is not None or any(blobs.glob("*")) else "absent"


def _indexed(index: Path, published: Mapping[str, Blob]) -> list[Blob]:
    """The files that an index names."""
    wanted = sorted({name for _, name in files.weight_map(index)})
    if absent := [name for name in wanted if name not in published]:
        raise CheckpointError(f"{index}: names {absent[0]}, which the repository does not have")
    return [published[name] for name in wanted]


class _Hub:
    """A repository on the hub, and its folder in the cache."""

    def __init__(self, name: str, hub_id: str, endpoint: str, pause_s: float) -> None:
        self._name, self._hub_id, self._endpoint, self._pause_s = name, hub_id, endpoint, pause_s
        self._folder = files.hub_folder(hub_id)

    def listing(self, revision: str) -> tuple[str, dict[str, Blob]]:
        """The commit of a revision, and its JSON and safetensors files by name; folders are not looked into."""
        url = f"{self._endpoint}/api/models/{self._hub_id}/revision/{quote(revision, safe='')}"
        try:
            with client_of(self._name, _token()) as client:
                answer = client.get(url, params={"blobs": "true"})
            answer.raise_for_status()
            found = answer.json()
            commit = found["sha"]
            blobs = [blob for one in found["siblings"] if (blob := _blob(one)) is not None]
        except httpx.HTTPStatusError as error:
            raise UnavailableError(
                f"{self._name}: {url} answers {error.response.status_code}; {self._refused(error.response)}"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnavailableError(
                f"{self._name}: {url} cannot be reached from this machine ({error or type(error).__name__}); fetch it "
                f"on one with a network and {self._by_hand}"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UnavailableError(
                f"{self._name}: {url} does not answer with a list of files; is HF_ENDPOINT right?"
            ) from None
        if not isinstance(commit, str) or len(commit) != _COMMIT or not commit.isalnum():
            raise UnavailableError(f"{self._name}: {url} says that the commit is {shown(commit)}, which is not one")
        return commit, {blob.name: blob for blob in blobs}

    def blob(self, blob: Blob) -> Path:
        """Where a file is stored, by its content."""
        return self._folder / "blobs" / blob.digest

    def refuse_size(self, blobs: Iterable[Blob]) -> None:
        """Raises UnavailableError if the disk has no room for what is missing of some files."""
        missing = sum(blob.n_bytes - self._here(blob) for blob in blobs)
        free = shutil.disk_usage(self._folder).free
        if missing and missing + SPARE_BYTES > free:
            raise UnavailableError(
                f"{self._name}: {format_bytes(missing)} are missing, and {self._folder} has room for "
                f"{format_bytes(free)}; make room, or name a folder on another disk in HF_HOME"
            )

    def fetch(self, commit: str, blob: Blob, progress: Progress) -> None:
        """Fetches a file unless it is there; raises as :func:`get`."""
        path = self.blob(blob)
        if path.exists():
            if (size := path.stat().st_size) != blob.n_bytes:
                raise CheckpointError(f"{path}: has {size} bytes, and {blob.n_bytes} are published; delete it")
            progress(blob.n_bytes, blob.n_bytes)
            return
        file = Published(
            name=f"{self._name}, {blob.name}",
            url=f"{self._endpoint}/{self._hub_id}/resolve/{commit}/{quote(blob.name)}",
            kind=blob.kind,
            digest=blob.digest,
            by_hand=self._by_hand,
            refused=self._refused,
            headers=_token(),
        )
        part = path.with_name(path.name + INCOMPLETE)
        fetch(file, path, part, progress=progress, pause_s=self._pause_s, max_bytes=blob.n_bytes)

    def link(self, commit: str, blobs: Iterable[Blob], *, is_main: bool) -> Path:
        """The snapshot's folder; the harness finds it only once all of its files are there."""
        snapshot = self._folder / "snapshots" / commit
        begun = snapshot if snapshot.is_dir() else snapshot.with_name(f"{UNFINISHED}{os.getpid()}")
        try:
            make_folder(begun)
            for blob in blobs:
                if not (begun / blob.name).exists():
                    (begun / blob.name).unlink(missing_ok=True)
                    _link(begun / blob.name, blob.digest)
            flush_folder(begun)
            if begun != snapshot:
                begun.replace(snapshot)
        except OSError as error:
            raise UnavailableError(f"{snapshot}: cannot be written: {why(error)}") from None
        _pin(snapshot, ("main", files.PINNED) if is_main else (files.PINNED,))
        return snapshot

    def _here(self, blob: Blob) -> int:
        path = self.blob(blob)
        part = path.with_name(path.name + INCOMPLETE)
        return next((min(one.stat().st_size, blob.n_bytes) for one in (path, part) if one.exists()), 0)

    @property
    def _by_hand(self) -> str:
        return f"copy {self._folder} from there, or name a mirror in HF_ENDPOINT"

    def _refused(self, answer: httpx.Response) -> str:
        """What a status means at the hub, which says so in a header."""
        code, page = answer.headers.get("X-Error-Code"), f"{self._endpoint}/{self._hub_id}"
        if code == "GatedRepo":
            return (
                f"its licence must be accepted once at {page}, and HF_TOKEN hold a token of that account "
                "('hf auth login' stores one)"
            )
        if code == "RevisionNotFound":
            return f"{self._hub_id} has no such revision"
        if code == "RepoNotFound" or answer.status_code in (401, 403, 404):
            return f"there is no {self._hub_id}, or it is private and the token in HF_TOKEN is not allowed to read it"
        return "try again later, or name a mirror in HF_ENDPOINT"


def _whole(hub_id: str, revision: str) -> Path | None:
    """The snapshot of a commit, if ``revision`` is one and all of it is there: what a commit holds does not change."""
    there = files.hub_folder(hub_id) / "snapshots" / revision
    is_here = re.fullmatch(r"[0-9a-f]{40}", revision) is not None and there.is_dir()
    return there if is_here and files.first_absent(there) is None else None


def _pin(snapshot: Path, names: Iterable[str]) -> None:
    """Makes a snapshot the one that its repository's references of these names lead to."""
    try:
        for name in names:
            write_whole(snapshot.parents[1] / "refs" / name, lambda file: file.write(snapshot.name.encode()))
    except OSError as error:
        raise UnavailableError(f"{snapshot}: cannot be pinned: {why(error)}") from None


def _link(path: Path, digest: str) -> None:
    try:
        path.symlink_to(Path("..") / ".." / "blobs" / digest)
    except OSError:
        # A file system without symbolic links.
        path.hardlink_to(path.parents[2] / "blobs" / digest)


def _blob(said: Mapping[str, Any]) -> Blob | None:
    """A file of a listing; None for one that is not fetched."""
    name, large = said["rfilename"], said.get("lfs")
    if "/" in name or not name.endswith((".json", ".safetensors")):
        return None
    kind, digest = ("git", said["blobId"]) if large is None else ("sha256", large["sha256"])
    n_bytes = said["size"]
    if not isinstance(n_bytes, int) or not isinstance(digest, str) or not digest.isalnum():
        raise TypeError
    return Blob(name=name, n_bytes=n_bytes, kind=kind, digest=digest)  # type: ignore[arg-type]


def _token() -> dict[str, str]:
    """The header with the user's own token, if one is set or was stored by the hub's client."""
    from huggingface_hub import get_token

    token = get_token()
    return {} if token is None else {"Authorization": f"Bearer {token}"}

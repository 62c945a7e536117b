"""What a training leaves in a folder, and where codecs are found. Nothing here imports torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness import catalog
from harness.errors import CheckpointError, HarnessError, UnavailableError, shown, unknown_name
from harness.files import no_folder
from harness.models import files
from harness.models.contract import Models, Part
from harness.runs import digests
from harness.tofc import manifest

CODECS = catalog.ZOO / "tofc"
"""The project's own codecs: a folder for each backbone, in it one for each codec."""

TRAINED = Path("codecs")
"""The user's codecs, in the working folder, in the same layout as the project's."""

CODEC, ADAPTER, CARD, MANIFEST = "codec.safetensors", "adapter", "card.md", "manifest.json"
REDUCER = "reducer.safetensors"
"""The reductions of features that are learned."""


def find_codec(backbone: str, codec: str) -> Path:
    """The codec's file: of a folder or a file given as a path, or by its name in :data:`TRAINED` or :data:`CODECS`.

    Raises UnavailableError, listing the known names, where there is none.
    """
    folders = [TRAINED / backbone, CODECS / backbone]
    if (place := find(codec, folders, (CODEC,))) is not None:
        return place
    if is_path(codec):
        there = f"has no {CODEC}" if Path(codec).is_dir() else "there is no such file or folder"
        raise UnavailableError(f"{codec}: {there}; a codec's file is expected, or the folder of a training with one")
    raise UnavailableError(
        f"{unknown_name(f'codec of {backbone}', codec, known(folders, (CODEC,)) or ['none'])}; train one to "
        f"{TRAINED / backbone / codec}, or give the path of a training's folder"
    )


def is_path(name: str) -> bool:
    """Whether the name of a codec or an adapter is a path: it has a slash, or a dot before it."""
    return "/" in name or name.startswith(".")


def find(name: str, folders: Sequence[Path], marks: Sequence[str]) -> Path | None:
    """The file that marks the result of that name: one of ``marks`` in the folder ``name`` of one of ``folders``.

    A codec may be a file by itself, ``<name>.safetensors``.
    """
    if is_path(name):
        places = [Path(name), *(Path(name) / mark for mark in marks)]
    else:
        flat = [f"{name}.safetensors"] if CODEC in marks else []
        places = [folder / place for folder in folders for place in (*flat, *(f"{name}/{mark}" for mark in marks))]
    return next((place for place in places if place.is_file()), None)


def known(folders: Sequence[Path], marks: Sequence[str]) -> list[str]:
    """The names that :func:`find` knows."""
    found = {path.parent.name for folder in folders for mark in marks for path in folder.glob(f"*/{mark}")}
    if CODEC in marks:
        found |= {path.stem for folder in folders for path in folder.glob("*.safetensors")}
    return sorted(found)


def find_by_hash(model: bytes, folder: Path) -> Path | None:
    """The codec's checkpoint below ``folder`` whose hash begins with ``model``, as a stream's header has it.

    It may be of any codec of features; None if there is none.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            metadata = files.metadata(path)
        except CheckpointError:
            continue
        if "-codec-" in metadata.get("format", "") and metadata.get("hash", "").startswith(model.hex()):
            return path
    return None


def adapter_beside(codec: Path, models: Models, parts: Sequence[Part]) -> Path | None:
    """The folder of the adapter that lies beside a codec; None where the codec was trained without one.

    Raises CheckpointError for a codec that was trained around other weights of these parts of the model, for one of
    another training than the manifest beside it, and for an adapter without a manifest.
    """
    if codec.name != CODEC:
        return None
    refuse_adapter_alone(codec.parent)
    if not (codec.parent / MANIFEST).exists():
        return None
    refuse_other_backbone(codec.parent, models.name)
    refuse_other_files(codec.parent)
    _refuse_other_weights(codec.parent, models, parts)
    adapter = codec.parent / ADAPTER
    return adapter if adapter.is_dir() else None


def refuse_adapter_alone(folder: Path) -> None:
    """Raises CheckpointError for a codec's folder with an adapter and no manifest."""
    if (folder / ADAPTER).is_dir() and not (folder / MANIFEST).exists():
        raise CheckpointError(
            f"{folder}: has a codec with an adapter, and no {MANIFEST} that says which weights they were trained "
            "around; copy the whole folder of the training"
        )


def refuse_other_backbone(folder: Path, backbone: str) -> None:
    """Raises CheckpointError where the manifest of the training in ``folder`` names another backbone than this."""
    if (path := folder / MANIFEST).exists():
        was = manifest.read(path).get("backbone", backbone)
        if was != backbone:
            raise CheckpointError(
                f"{folder}: was trained for {shown(was)}, and {backbone} needs a training of its own; 'harness train' "
                "makes one"
            )


_OF_ADAPTER = (files.ADAPTER_CONFIG, files.ADAPTER_WEIGHTS)


def adapter_hash(folder: Path) -> str:
    """The digest of an adapter's configuration and weights; raises CheckpointError where it is damaged."""
    refuse_unreadable_adapter(folder)
    return digests.of_data({name: digests.of_file(folder / name) for name in _OF_ADAPTER})


_HASHES: Mapping[str, tuple[manifest.Hash, Callable[[Path], str | None]]] = {
    CODEC: ("codec_hash", lambda path: files.metadata(path).get("hash")),
    ADAPTER: ("adapter_hash", adapter_hash),
    REDUCER: ("reducer_hash", digests.of_file),
}
"""What a training may leave besides its manifest, the key of its hash there, and what makes the hash."""


def refuse_other_files(folder: Path) -> None:
    """Raises CheckpointError where what lies in ``folder`` is not of the training whose manifest lies there.

    Codec, adapter and reducer are known by their hashes; of manifests of an earlier code, which have not all of these,
    by whether there was a codec and an adapter.
    """
    if not (path := folder / MANIFEST).exists():
        return
    found = manifest.read(path)
    config = found.get("config", {})
    said = {
        CODEC: config["codec"] is not None if "codec" in config else None,
        ADAPTER: config["lora"]["rank"] > 0 if "lora" in config else None,
    }
    for name, (key, hash_of) in _HASHES.items():
        wanted, had, there = found.get(key), said.get(name), (folder / name).exists()
        if had is None and wanted is not None:
            had = True
        one = f"an {name}" if name == ADAPTER else f"a {name}"
        if had and not there:
            wrong = f"{folder}: has no {name}, and its {MANIFEST} is of a training with one"
        elif had is False and there:
            wrong = f"{folder}: has {one}, and its {MANIFEST} is of a training without one"
        elif there and wanted is not None and (has := hash_of(folder / name)) != wanted:
            wrong = (
                f"{folder / name}: is of another training than the {MANIFEST} beside it: its hash is {_short(has)}, "
                f"and the manifest's {key} is {_short(wanted)}"
            )
        else:
            continue
        raise CheckpointError(f"{wrong}; copy the whole folder of one training")


def _short(digest: str | None) -> str:
    return shown(digest and digest[: digests.SHORT])


def _refuse_other_weights(folder: Path, models: Models, parts: Sequence[Part]) -> None:
    """Raises CheckpointError where a training's manifest names other weights of some parts than the model has."""
    if not (path := folder / MANIFEST).exists():
        return
    wanted = manifest.read(path)["fingerprints"]
    for part in parts:
        if (found := models.fingerprint(part)) not in (wanted[part], "random"):
            raise CheckpointError(
                f"{folder}: was trained with weights {wanted[part]} of the {part} of {models.name}, and the model's "
                f"are {found}; 'harness train' makes it again"
            )


def is_codec_only(folder: Path) -> bool:
    """Whether ``harness train`` fitted the codec in ``folder`` alone, to features of a backbone that was not tuned."""
    return (folder / MANIFEST).is_file() and (folder / CODEC).is_file() and not (folder / ADAPTER).is_dir()


def trained_n_c(folder: Path) -> tuple[int, ...] | None:
    """The n_c that the training in ``folder`` was for, as its manifest says.

    None where that is not known: without a manifest, or with one that has no hash of a file beside it, which may then
    be of any training.
    """
    if not (path := folder / MANIFEST).is_file():
        return None
    found = manifest.read(path)
    if any((folder / name).exists() and found.get(key) is None for name, (key, _) in _HASHES.items()):
        return None
    clusters = found.get("config", {}).get("clusters")
    return None if clusters is None else tuple(sorted(clusters))


def _refuse_not_merging(folder: Path) -> None:
    """Raises CheckpointError where a training's manifest is of a codec, or of another reduction than merging."""
    if not (path := folder / MANIFEST).exists():
        if (folder / CODEC).is_file():
            raise CheckpointError(
                f"{folder}: holds a codec, so its adapter was trained together with it; 'adapter' needs one that "
                "was tuned only for merged features, which 'harness train --stage merging' makes"
            )
        return
    found = manifest.read(path)
    if (said := manifest.reduction_of(found)) is None:
        return
    scheme, reduction = said
    if (with_codec := found["config"].get("codec") is not None) or reduction != manifest.MERGING:
        was = "together with a codec" if with_codec else f"for the reduction of {scheme}"
        raise CheckpointError(
            f"{folder}: its adapter was trained {was}; 'adapter' needs one that was tuned only for merged features, "
            "which 'harness train --stage merging' makes"
        )


def _is_of_merging(folder: Path) -> bool:
    try:
        _refuse_not_merging(folder)
    except HarnessError:
        return False
    return True


def _refuse_other_base(folder: Path, backbone: str) -> None:
    """Raises CheckpointError where peft's own note in an adapter names another backbone of the catalog."""
    base = files.read_json(folder / files.ADAPTER_CONFIG).get("base_model_name_or_path")
    if base != backbone and base in catalog.BACKBONES:
        raise CheckpointError(f"{folder}: is an adapter of {base}, and {backbone} needs one of its own")


def find_adapter(backbone: str, adapter: str) -> Path:
    """The folder of an adapter in peft's format: that folder or a training's, as a path, or by its name.

    Names are looked for in :data:`TRAINED` and :data:`CODECS`. Raises UnavailableError, listing the known names, where
    there is none.
    """
    among = [TRAINED / backbone, CODECS / backbone]
    places = [Path(adapter)] if is_path(adapter) else [folder / adapter for folder in among]
    for place in places:
        for folder in (place / ADAPTER, place):
            if (folder / files.ADAPTER_CONFIG).is_file():
                return folder
    if is_path(adapter):
        if not Path(adapter).is_dir():
            raise UnavailableError(
                f"{adapter}: {no_folder(Path(adapter))}; a training's folder is expected, or one with an adapter as "
                "peft saves it"
            )
        raise UnavailableError(
            f"{adapter}: has no adapter; a training's folder, or one with {files.ADAPTER_CONFIG} and "
            f"{files.ADAPTER_WEIGHTS} in peft's format, is expected"
        )
    known = {path.parents[1] for folder in among for path in folder.glob(f"*/{ADAPTER}/{files.ADAPTER_CONFIG}")}
    tuned = [folder.name for folder in known if _is_of_merging(folder)] or ["none"]
    raise UnavailableError(
        f"{unknown_name(f'adapter of {backbone}', adapter, tuned)}; train one to "
        f"{TRAINED / backbone / adapter} ('harness train ... --stage merging'), give the path of its folder, or leave "
        "'adapter' out of the points: they then count as not tuned for merging"
    )


def adapter_n_c(backbone: str, adapter: str) -> tuple[int, ...] | None:
    """The n_c that an adapter was trained for; None where that is not known, as of one that peft saved by itself.

    Raises as :func:`find_adapter`.
    """
    folder = find_adapter(backbone, adapter)
    return trained_n_c(folder.parent) if folder.name == ADAPTER else None


def adapter_files(backbone: str, adapter: str) -> dict[str, Path]:
    """The files of an adapter, by names for people.

    Raises as :func:`find_adapter`, and CheckpointError for an adapter of another backbone, for one that was not trained
    only for merging, and for files that cannot be read.
    """
    folder = find_adapter(backbone, adapter)
    if folder.name == ADAPTER:
        refuse_other_backbone(folder.parent, backbone)
        _refuse_not_merging(folder.parent)
        refuse_other_files(folder.parent)
    refuse_unreadable_adapter(folder)
    _refuse_other_base(folder, backbone)
    return {f"adapter {adapter}, {name}": folder / name for name in _OF_ADAPTER}


def refuse_unreadable_adapter(folder: Path) -> None:
    """Raises CheckpointError for an adapter that is damaged, or more than a plain LoRA; no weights are read."""
    files.adapter_config(folder)
    files.refuse_unreadable(folder / files.ADAPTER_WEIGHTS)


def load_adapter(models: Models, adapter: str) -> Path:
    """The folder of an adapter for all parts of a model.

    Raises as :func:`find_adapter`, and CheckpointError for one that was trained around other weights or not only for
    merging.
    """
    folder = find_adapter(models.name, adapter)
    if folder.name == ADAPTER:
        refuse_other_backbone(folder.parent, models.name)
        _refuse_not_merging(folder.parent)
        refuse_other_files(folder.parent)
        _refuse_other_weights(folder.parent, models, files.PARTS)
    _refuse_other_base(folder, models.name)
    return folder

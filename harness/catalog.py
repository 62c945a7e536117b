"""Names that a scenario may use, and where each is defined.

The one table of names. Targets are strings, so that reading the table imports nothing; :func:`load` imports a target
when it is needed. Schemes and backbones may live outside the harness, as the baselines do: a scenario may name one as
``package.module:object``, found as Python finds modules or in the working folder, and an installed package may declare
a name for one as an entry point (:data:`ENTRY_POINTS`).
"""

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import ScenarioError, UnavailableError, unknown_name

SCHEMES: Mapping[str, str] = {
    "tofc": "harness.schemes.tofc:Tofc",
    "jpeg": "baselines.pillow_codecs:Jpeg",
    "webp": "baselines.pillow_codecs:WebP",
    "avif": "baselines.pillow_codecs:Avif",
    "jxl": "baselines.pillow_codecs:JpegXL",
    "hyperprior": "baselines.neural_codec:Hyperprior",
    "elic": "baselines.neural_codec:Elic",
    "compressai": "baselines.compressai_zoo:CompressAI",
    "server_only": "baselines.server_only:ServerOnly",
    "device_only": "baselines.device_only:DeviceOnly",
    "raw_features": "baselines.raw_features:RawFeatures",
    "tofc_selective": "baselines.ablations.schemes:Selective",
    "tofc_single": "baselines.ablations.schemes:Single",
    "tofc_heuristic": "baselines.ablations.schemes:Heuristic",
    "tofc_factorized": "baselines.ablations.schemes:Factorized",
    "tofc_unmerged": "baselines.ablations.schemes:Unmerged",
    "visionzip": "baselines.ablations.schemes:VisionZipDominant",
    "visionzip_merging": "baselines.ablations.schemes:VisionZipMerging",
    "qformer": "baselines.ablations.schemes:QFormerQueries",
}

WORK: Mapping[str, str] = {
    "tofc": "harness.estimates.stages:tofc",
    "jpeg": "baselines.work:jpeg",
    "webp": "baselines.work:webp",
    "hyperprior": "baselines.work:hyperprior",
    "elic": "baselines.work:elic",
    "server_only": "baselines.work:server_only",
    "device_only": "baselines.work:device_only",
    "raw_features": "baselines.work:raw_features",
    "tofc_selective": "harness.estimates.stages:tofc",
    "tofc_single": "baselines.work:single",
    "tofc_heuristic": "baselines.work:without_networks",
    "tofc_factorized": "baselines.work:without_networks",
    "tofc_unmerged": "baselines.work:unmerged",
    "visionzip": "baselines.work:visionzip",
    "visionzip_merging": "baselines.work:visionzip",
    "qformer": "baselines.work:qformer",
}
"""What counts a scheme's operations and bytes at full size, for estimates."""

CODEC_WORK = "baselines.work:codec_work"
"""What counts those of learned image codecs with published times."""

BACKBONES: Mapping[str, str] = {
    "llava-onevision-7b": "harness.models.onevision:load",
    "llava-onevision-0.5b": "harness.models.onevision:load",
    "llava-1.5-7b": "harness.models.llava15:load",
    "internvl3-1b": "harness.models.internvl:load",
    "internvl3-2b": "harness.models.internvl:load",
    "internvl3-8b": "harness.models.internvl:load",
    "gemma-3-4b": "harness.models.gemma3:load",
    "gemma-3-12b": "harness.models.gemma3:load",
    "gemma-3-27b": "harness.models.gemma3:load",
    "mini-onevision": "harness.models.onevision:load",
    "mini-nano": "harness.models.onevision:load",
    "mini-llava15": "harness.models.llava15:load",
}

ON_DEVICE: Mapping[str, str] = {
    "llava-onevision-7b": "llava-onevision-0.5b",
    "internvl3-2b": "internvl3-1b",
    "internvl3-8b": "internvl3-1b",
    "gemma-3-12b": "gemma-3-4b",
    "gemma-3-27b": "gemma-3-4b",
    "mini-onevision": "mini-nano",
}
"""The smaller model of a backbone's family that runs on a device; LLaVA-1.5 has none."""

BENCHMARKS: Mapping[str, str] = {
    "RealWorldQA": "harness.data.benchmarks:load",
    "MME": "harness.data.benchmarks:load",
    "AI2D_TEST": "harness.data.benchmarks:load",
    "MMBench_DEV_EN": "harness.data.benchmarks:load",
    "MMStar": "harness.data.benchmarks:load",
    "ScienceQA_TEST": "harness.data.benchmarks:load",
    "MMMU_DEV_VAL": "harness.data.benchmarks:load",
    "StreetsQA": "harness.data.streetsqa:load",
    "GlimpseQA": "harness.data.glimpseqa:load",
}

ZOO = Path(__file__).with_name("zoo")
"""The folder of the project's own weights: backbones, and codecs under ``tofc``. Nothing else builds a path to it."""

ENTRY_POINTS: Mapping[str, str] = {"scheme": "tofc_harness.schemes", "backbone": "tofc_harness.backbones"}
"""The groups of entry points in which packages declare names, by what they are names of."""

TRAINING_DATA: Mapping[str, str] = {
    "conversations": "harness.training.conversations:Conversations",
    "bundled": "harness.training.bundled:Bundled",
    "pictures": "harness.training.pictures:Pictures",
}

PAYLOADS: Mapping[str, str] = {
    "TOFC streams": "harness.schemes.anatomy:of_stream",
    "learned image codecs' files": "baselines.anatomy:of_neural_file",
    "raw features": "baselines.anatomy:of_raw_features",
    "JPEG XL codestreams": "baselines.anatomy:of_jxl",
    "picture files": "harness.schemes.picture_file:of_picture",
}
"""The kinds of payloads of a picture, and what shows their parts; see :mod:`harness.schemes.anatomy`."""

WEIGHTS_CONVERTER = "baselines.networks.convert"
"""The program that converts a pickle to safetensors."""

CODEC_FORMATS: Mapping[str, str] = {
    "tofc-codec-3": "harness.tofc.codec:TofcCodec",
    "heuristic-codec-1": "baselines.ablations.heuristic:HeuristicCodec",
    "factorized-codec-1": "baselines.ablations.factorized:FactorizedCodec",
}
"""The codecs of features by the format of their checkpoints."""

CODEC_FOLDERS: Mapping[str, str] = {
    "zoo": "harness.catalog:ZOO",
    "ablations": "baselines.ablations.schemes:WEIGHTS",
}
"""The folders of the bundled codecs' checkpoints."""


def smaller(backbone: str, name: str | None = None) -> str:
    """The smaller model that runs on a device: ``name``, or else the one of the backbone's family.

    Raises UnavailableError where there is none.
    """
    if found := name or ON_DEVICE.get(backbone):
        return found
    raise UnavailableError(
        f"the catalog has no smaller model than {backbone} for a device; name one as the point's backbone"
    )


def load(what: str, name: str, table: Mapping[str, str]) -> Any:
    """The object behind a name of ``table``, an entry point, or ``module:object``.

    Raises ScenarioError, listing the known names, for any other, and for an object that cannot be imported.
    """
    if name in table:
        return target(table[name])
    declared = _declared(what)
    if name not in declared and not is_own(what, name):
        raise ScenarioError(unknown_name(what, name, [*table, *declared]))
    return _own(what, declared.get(name, name))


def module_of(what: str, name: str, table: Mapping[str, str]) -> str | None:
    """The module that has the object behind a user's own name; None for a name of ``table``."""
    return None if name in table else _declared(what).get(name, name).partition(":")[0]


def is_own(what: str, name: str) -> bool:
    """Whether a name is ``module:object`` where a scenario may say so."""
    return what in ENTRY_POINTS and ":" in name


@functools.cache
def _declared(what: str) -> Mapping[str, str]:
    """The names that installed packages declare, and their targets."""
    if what not in ENTRY_POINTS:
        return {}
    return {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS[what])}


def _own(what: str, path: str) -> Any:
    """A user's own object; any error of its module's import becomes a ScenarioError."""
    module, _, attribute = path.partition(":")
    if not (module and attribute):
        raise ScenarioError(f"{what} {path!r} names no object; module:object is expected, such as my_module:Mine")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        raise ScenarioError(
            f"{what} {path}: {module} cannot be imported: {type(error).__name__}: {said:.200}"
        ) from None
    try:
        return getattr(found, attribute)
    except AttributeError:
        raise ScenarioError(f"{what} {path}: {module} has no {attribute!r}") from None


def target(path: str) -> Any:
    """The object of ``module:object``."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)

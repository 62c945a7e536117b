"""Algorithm 1 as a program: pre-fit, joint training, result; on one process or many, and taken up where it stopped.

Nothing random outlives a step: examples, n_c and dropout follow from the seed and the step's number. So a training that
was stopped and resumed ends with the weights of one that was not. A step's losses are those of its whole batch, however
that is divided among processes and micro-batches (see :mod:`harness.training.model`); dropout alone is drawn for each
micro-batch.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import harness.models.torchvision_ops  # noqa: F401  isort: skip - accelerate may import transformers
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor

from harness import catalog, files
from harness.data.drawing.seeded_random import SeededRandom
from harness.errors import ScenarioError
from harness.models import adapter
from harness.models.llava import Llava
from harness.runs.disk import discard
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.training import checkpoint, kept, reading, recipe, result
from harness.training.codec import objective
from harness.training.config import TrainingConfig
from harness.training.contract import TrainingData
from harness.training.fit import Group, Step, fit, learning_rate_factor
from harness.training.load import config_hash
from harness.training.model import Batch, SplitModel, Use
from harness.training.schedule import Schedule
from harness.training.window import Window

LOG = "log.jsonl"


class Reporter(Protocol):
    """Shows a reader how far the training is."""

    def phase(self, name: str, total: int, done: int) -> None:
        """Begins a phase of ``total`` steps, ``done`` of which an earlier process did."""
        ...

    def advance(self) -> None:
        """One step of the phase is done."""
        ...

    def line(self, text: str) -> None:
        """Shows one line of the log."""
        ...


class Stage(NamedTuple):
    """A stretch of training with an optimiser of its own: what is trained, at which peak rates, on which batches.

    ``temperature`` is T of a step of the stage, ``rate_weight`` its lambda.
    """

    name: str
    steps: int
    offset: int
    rate_weight: float
    temperature: Callable[[int], float]
    module: SplitModel
    rates: Mapping[str, float]
    parameters: Mapping[str, Mapping[str, Tensor]]
    micro_batches: int
    batches: Callable[[int], Iterator[Batch]]


def open_data(config: TrainingConfig, template: Any) -> TrainingData:
    """The examples that a configuration names; raises DataError where they are not to be read."""
    kind = catalog.load("kind of training data", config.data["kind"], catalog.TRAINING_DATA)
    data: TrainingData = kind(config.data_config(), template)
    return data


def open_backbone(config: TrainingConfig, device: torch.device) -> Llava:
    """The backbone that a configuration names; raises as its loader does, and ScenarioError for n_c it cannot merge."""
    load = catalog.load("backbone", config.backbone, catalog.BACKBONES)
    backbone: Llava = load(config.backbone, device=device, dtype=config.dtype, weights=config.weights).backbone()
    if (largest := max(config.clusters)) > backbone.n_features:
        raise ScenarioError(
            f"clusters: {largest} is more than the {backbone.n_features} features of a patch of {config.backbone}"
        )
    return backbone


class Training:
    """One training of a configuration, from wherever it is to its end.

    ``machine`` is a plain mapping that describes this machine, for the manifest.
    """

    def __init__(self, config: TrainingConfig, *, machine: Mapping[str, Any]) -> None:
        # accelerate keeps one state a process; another training in this one may have had another precision.
        AcceleratorState._reset_state()
        self.config = config
        self._machine = machine
        self.folder = Path(config.out)
        # Text alone leaves codec and tower out of a step, and hard steps the router.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        # Without being told, accelerate would take the processes of torchrun on a CPU for strangers.
        on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
        if on_cpu and config.precision == "fp16":
            raise ScenarioError("precision: fp16 needs an accelerator, and this machine has none; bf16 runs anywhere")
        self.accelerator = Accelerator(mixed_precision=config.precision, cpu=on_cpu, kwargs_handlers=[unused])
        self.share = reading.Share(self.accelerator.process_index, self.accelerator.num_processes)
        self._check_batches()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device: torch.device = self.accelerator.device
        self.backbone = open_backbone(config, self.device)
        self.backbone.model.requires_grad_(False)
        self._base = self.backbone.fingerprints()
        self._identity = result.identity_of(config_hash(config), self._base)
        self.data = open_data(config, self.backbone.template)
        self.pool, self.held_out = self._split()
        torch.manual_seed(config.seed)
        sizes = CodecConfig(dim=self.backbone.feature_dim, n_experts=config.codec.experts, hidden=config.codec.hidden)
        self.codec = TofcCodec(sizes).to(self.device)
        if config.codec.step != "learned":
            for scale in self.codec.scale_parameters():
                scale.requires_grad_(False)
        self.peft: Any = None
        self.seconds = 0.0
        self.schedule = Schedule(config, self.joint_steps)

    @property
    def joint_steps(self) -> int:
        """Steps of the joint training."""
        if self.config.steps is not None:
            return self.config.steps
        assert self.config.epochs is not None
        return max(1, round(self.config.epochs * len(self.pool) / self.config.batch))

    def _check_batches(self) -> None:
        for name, batch in (("batch", self.config.batch), ("prefit.batch", self.config.prefit.batch)):
            if batch % self.share.processes:
                raise ScenarioError(f"{name}: {batch} examples do not divide among {self.share.processes} processes")
        if self.config.batch // self.share.processes % self.config.micro_batch:
            raise ScenarioError(
                f"batch: {self.config.batch} over {self.share.processes} processes does not divide into micro-batches "
                f"of {self.config.micro_batch}"
            )

    def _split(self) -> tuple[list[int], list[int]]:
        """Examples to train on, and the last ones with pictures, held out."""
        shown = [index for index in range(len(self.data)) if self.data.has_image(index)]
        held_out = shown[-self.config.held_out :]
        if len(shown) <= len(held_out):
            raise ScenarioError(
                f"held_out: {self.config.held_out} of the {len(shown)} examples with pictures are to be held out; "
                "that leaves none to train on"
            )
        kept_back = set(held_out)
        return [index for index in range(len(self.data)) if index not in kept_back], held_out

    @property
    def is_complete(self) -> bool:
        """Whether the folder holds this training's result; raises ScenarioError where it holds another's."""
        found = result.identity(self.folder)
        if found is not None and found != self._identity:
            raise ScenarioError(
                f"{self.folder}: holds the result of another configuration or other weights; --fresh replaces it, "
                "another 'out' keeps both"
            )
        return found is not None

    def plan(self) -> str:
        """What would be done, in a few lines."""
        config = self.config
        lora = config.lora.rank and adapter.size(self.backbone, config.lora.rank)
        codec = sum(p.numel() for p in self.codec.parameters())
        return "\n".join(
            (
                f"{config.name}: {self.data.identity}; {len(self.pool)} to train on, {len(self.held_out)} held out",
                f"backbone {config.backbone}: {sum(p.numel() for p in self.backbone.model.parameters()) / 1e6:.1f} M "
                f"parameters on {self.device}, weights {' '.join(self._base.values())}",
                f"trained: {codec / 1e6:.1f} M parameters of the codec, {lora / 1e6:.1f} M of LoRA and projector",
                f"budget: {config.prefit.steps} steps of {config.prefit.batch} pictures on cached features, then "
                f"{self.joint_steps} of {config.batch} examples, {config.micro_batch} at once on each of "
                f"{self.share.processes} processes: {config.prefit.steps * config.prefit.batch} and "
                f"{self.joint_steps * config.batch} samples",
                f"recipe: {recipe.recipe_of(config)}",
                *(f"  adds {text}" for text in recipe.additions(config)),
                *(f"  departs: {text}" for text in recipe.departures(config)),
                f"the joint training can change the quantiser's step by a factor of {self.schedule.step_range():.3g}",
                *self.schedule.lines(),
            )
        )

    def run(self, reporter: Reporter, *, fresh: bool = False) -> Path:
        """Train, measure and save; returns the folder. Raises as the data, the backbone and the checkpoint do.

        ``fresh`` deletes what another training left in the folder.
        """
        config, self._reporter = self.config, reporter
        if fresh and self.accelerator.is_main_process:
            for name in (checkpoint.FILE, LOG, *result.FILES):
                discard(self.folder / name)
        self.accelerator.wait_for_everyone()
        state = checkpoint.read(self.folder / checkpoint.FILE)
        if state and state.identity != self._identity:
            raise ScenarioError(
                f"{self.folder}: holds an unfinished training of another configuration or other weights; "
                "--fresh starts over, another 'out' keeps both"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if state:
            self.seconds = state.seconds
        elif self.accelerator.is_main_process:
            cut_log(self.folder / LOG, 0)
        if config.prefit.steps and (state is None or state.stage == "prefit"):
            self._train(self._prefit(), state)
            state = None
        elif state is None:
            self._fit_scale(self._few_features())
        if self.joint_steps:
            self._train(self._joint(), state)
        if self.accelerator.is_main_process:
            self._finish()
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return self.folder

    def _prefit(self) -> Stage:
        config = self.config
        with_pictures = [index for index in self.pool if self.data.has_image(index)]
        chosen = [key.example for key in reading.keys_of_step(with_pictures, config.seed, len(with_pictures), 0)]
        mine = sorted(chosen[: config.prefit.pictures][self.share.rank :: self.share.processes])
        if not mine:
            raise ScenarioError(f"prefit.pictures: {config.prefit.pictures} are too few for every process to have one")
        reader = reading.Reader(self.data, self.backbone, config.max_tokens, pictures=False)
        self._reporter.phase("features", len(mine), 0)
        cache = Path(config.prefit.cache) if config.prefit.cache else None
        features = kept.keep(self.backbone, reader, mine, config.clusters, cache, self._reporter.advance)
        flat_1ND = kept.features(features).to(self.device)
        self._fit_scale(flat_1ND)
        variance: Any = self.accelerator.reduce(flat_1ND[0].var(0).mean(), "mean")

        def batches(first: int) -> Iterator[Batch]:
            return kept.batches(
                features, reader, seed=config.seed, batch=config.prefit.batch, share=self.share, first=first,
                n_clusters=lambda step: self._clusters(step),
            )  # fmt: skip

        module = SplitModel(
            self.backbone, self.codec, merged=True, distortion=config.prefit.distortion, variance=float(variance)
        )
        weight, hot = config.prefit_rate_weight, config.temperature.start
        return self._stage("prefit", config.prefit.steps, 0, weight, lambda _: hot, module, 1, batches)

    def _joint(self) -> Stage:
        config = self.config
        if config.lora.rank:
            # The adapter's first weights are drawn here, whatever came before.
            torch.manual_seed(config.seed)
            self.peft = adapter.attach(self.backbone, config.lora.rank, config.lora.alpha, config.lora.dropout)
        if config.gradient_checkpointing:
            model = self.backbone.model
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        reader = reading.Reader(self.data, self.backbone, config.max_tokens)

        def batches(first: int) -> Iterator[Batch]:
            return reading.batches(
                reader, self.pool, seed=config.seed, batch=config.batch, micro_batch=config.micro_batch,
                share=self.share, first=first, workers=config.workers,
            )  # fmt: skip

        module = SplitModel(self.backbone, self.codec, merged=False)
        micro_batches = config.batch // self.share.processes // config.micro_batch
        weight, temperature = config.rate_weight, self.schedule.temperature
        return self._stage(
            "joint", self.joint_steps, config.prefit.steps, weight, temperature, module, micro_batches, batches
        )

    def _stage(
        self, name: str, steps: int, offset: int, rate_weight: float, temperature: Callable[[int], float],
        module: SplitModel, micro_batches: int, batches: Callable[[int], Iterator[Batch]],
    ) -> Stage:  # fmt: skip
        """A stage with its parameters by part; codec and router are groups of their own, outside the adapter."""
        parts: dict[str, dict[str, Tensor]] = {"codec": {}, "step": {}, "language": {}, "vision": {}, "projector": {}}
        for key, p in self.codec.named_parameters():
            if p.requires_grad:
                parts["step" if key in ("offset_D", "log_step_D") else "codec"][f"codec.{key}"] = p
        if self.peft is not None:
            for key, p in adapter.trainable(self.peft).items():
                parts[adapter.part_of(key)][f"adapter.{key}"] = p
        rates = self.config.learning_rates.model_dump()
        parts = {part: parameters for part, parameters in parts.items() if parameters}
        return Stage(name, steps, offset, rate_weight, temperature, module, rates, parts, micro_batches, batches)

    def _clusters(self, step: int) -> int:
        return reading.clusters_of_step(self.config.clusters, self.config.seed, step)

    def _fit_scale(self, y_1ND: Tensor) -> None:
        """Start from these features: the router's normalisation, and the quantiser's step unless that is one."""
        self.codec.fit_scale(y_1ND)
        if self.config.codec.step == "one":
            with torch.no_grad():
                for scale in self.codec.scale_parameters():
                    scale.zero_()

    def _few_features(self) -> Tensor:
        """A few pictures' features, for where there is no pre-fit."""
        reader = reading.Reader(self.data, self.backbone, self.config.max_tokens, pictures=False)
        few = [index for index in self.pool if self.data.has_image(index)][: len(self.held_out)]
        features = kept.keep(self.backbone, reader, few, self.config.clusters, None, lambda: None)
        return kept.features(features).to(self.device)

    def _use(
        self, stage: Stage, parts: Sequence[Batch], seeds: Sequence[int], step: int, n_clusters: int
    ) -> Use | None:
        """How a step's features use the models, from a pass of its own; None where the step is one micro-batch.

        The pass runs tower and router without gradients, with the random numbers of the other one.
        """
        temperature = stage.temperature(step)
        in_all = len(parts) * self.share.processes
        if in_all == 1 or temperature == 0 or self.config.alpha == 0:
            return None
        total: Any = 0
        for batch, seed in zip(parts, seeds, strict=True):
            torch.manual_seed(seed)
            with self.accelerator.autocast():
                total = total + stage.module.used(batch, n_clusters, temperature)
        total = self.accelerator.reduce(total, "sum")
        features = max(1.0, float(total[-1]))
        return Use(total[:-1] / features, features, in_all)

    def _train(self, stage: Stage, state: checkpoint.State | None) -> None:
        config, accelerator = self.config, self.accelerator
        named = {name: p for part in stage.parameters.values() for name, p in part.items()}
        if state:
            self._restore(state, named)
        first = state.steps if state else 0
        accelerator.gradient_accumulation_steps = stage.micro_batches
        stage.module.train()
        window = Window(self.device)
        taken = fit(
            [Group(name=name, parameters=part, rate=stage.rates[name]) for name, part in stage.parameters.items()],
            stage.steps,
            functools.partial(self._losses, stage, accelerator.prepare(stage.module), window),
            factor=lambda step: learning_rate_factor(step, stage.steps, config.warm_up),
            gradient_norm=config.gradient_norm,
            engine=accelerator,
            state=state,
            save=functools.partial(self._save, stage, named),
            save_every=config.save_every,
        )
        self._reporter.phase(stage.name, stage.steps, first)
        begun = time.monotonic()
        for step in taken:
            done = step.number + 1
            if done % config.log_every == 0 or done == stage.steps:
                self._log(stage, done, window, step)
            self._reporter.advance()
        self.seconds += time.monotonic() - begun
        # The next stage wraps the same weights: this one's hooks on their gradients must be gone.
        del taken
        accelerator.free_memory()

    def _losses(self, stage: Stage, module: Any, window: Window, first: int) -> Iterator[Iterator[Tensor]]:
        """The losses of each step's micro-batches, from step ``first`` on."""
        batches = stage.batches(first)
        for step in range(first, stage.steps):
            yield self._of_step(stage, module, window, step, [next(batches) for _ in range(stage.micro_batches)])

    def _of_step(
        self, stage: Stage, module: Any, window: Window, step: int, parts: Sequence[Batch]
    ) -> Iterator[Tensor]:
        config = self.config
        temperature, n_clusters = stage.temperature(step), self._clusters(step)
        generators = (SeededRandom("dropout", config.seed, stage.offset + step, m, self.share.rank) for m in range(len(parts)))
        seeds = [rng.below(2**31) for rng in generators]
        use = self._use(stage, parts, seeds, step, n_clusters)
        for batch, seed in zip(parts, seeds, strict=True):
            # After the reading, which may draw numbers of its own when it begins.
            torch.manual_seed(seed)
            with self.accelerator.accumulate(module):
                losses = module(batch, n_clusters, temperature, use)
                loss = objective(losses.distortion, losses.rate, losses.imbalance, stage.rate_weight, config.alpha)
                window.add(loss, losses.distortion, losses.rate, config.alpha * losses.imbalance, losses.right)
                # Its gradient is taken while accelerate holds back the exchange between processes.
                yield loss

    def _log(self, stage: Stage, done: int, window: Window, step: Step) -> None:
        mean, seconds = window.means(self.accelerator)
        if not all(value == value and abs(value) != float("inf") for value in mean.values()):
            raise ScenarioError(
                f"{self.config.name}: the losses are {mean} at step {done} of {stage.name}; lower learning rates or "
                "precision: no may help; the last checkpoint is kept"
            )
        entry = {
            **mean,
            "T": round(stage.temperature(step.number), 4),
            "grad_norm": round(float(step.norm), 4),
            **{f"lr_{part}": float(f"{stage.rates[part] * step.factor:.4g}") for part in stage.parameters},
            "seconds_a_step": round(seconds * stage.micro_batches, 4),
            "epoch": round(done * self.config.batch / len(self.pool), 4) if stage.name == "joint" else 0.0,
            "stage": stage.name,
            "step": stage.offset + done,
        }
        if self.accelerator.is_main_process:
            self._reporter.line(str(entry))
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def _save(
        self, stage: Stage, named: Mapping[str, Tensor], done: int, seconds: float, moments: Mapping[str, Tensor]
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = {f"codec:{key}": t.detach().cpu().contiguous() for key, t in self.codec.state_dict().items()}
        tensors |= {f"weight:{name}": p.detach().cpu().contiguous() for name, p in named.items() if "adapter." in name}
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {}
        state = checkpoint.State(
            identity=self._identity,
            stage=stage.name,
            steps=done,
            seconds=self.seconds + seconds,
            scaler=scaler,
            tensors={**tensors, **moments},
        )
        checkpoint.write(self.folder / checkpoint.FILE, state)

    def _restore(self, state: checkpoint.State, named: Mapping[str, Tensor]) -> None:
        """Weights and loss scale as they were; the log loses what was written after them."""
        mine = {name.removeprefix("codec:"): t for name, t in state.tensors.items() if name.startswith("codec:")}
        self.codec.load_state_dict(mine)
        with torch.no_grad():
            for name, p in named.items():
                if f"weight:{name}" in state.tensors:
                    p.copy_(state.tensors[f"weight:{name}"])
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(dict(state.scaler))
        if self.accelerator.is_main_process:
            cut_log(self.folder / LOG, state.steps + (self.config.prefit.steps if state.stage == "joint" else 0))

    def _finish(self) -> None:
        few = [index for index in self.pool if self.data.has_image(index)][: len(self.held_out)]
        if self.peft is not None:
            adapter.halve(self.peft)
        self._reporter.phase("held out", len(self.held_out), 0)
        module = SplitModel(self.backbone, self.codec, merged=True).eval()
        reader = reading.Reader(self.data, self.backbone, self.config.max_tokens)
        clusters = self.config.clusters
        result.freeze(self.codec, self.backbone, reader, few, clusters)
        found = result.measure(module, self.backbone, reader, self.held_out, clusters, self._reporter.advance)
        result.write(
            self.folder,
            self.config,
            codec=self.codec,
            peft=self.peft,
            backbone=self.backbone,
            base=self._base,
            data=self.data.identity,
            steps=(self.config.prefit.steps, self.joint_steps),
            seconds=self.seconds,
            processes=self.share.processes,
            measured=found,
            machine=self._machine,
        )
        (self.folder / checkpoint.FILE).unlink(missing_ok=True)


def cut_log(log: Path, done: int) -> None:
    """Take out of a log what follows step ``done``, and a line that a kill has torn; a log that is absent stays so."""
    try:
        lines = log.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    files.write_whole(log, lambda file: file.write(b"".join(line for line in lines if 0 <= _step(line) <= done)))


def _step(line: bytes) -> int:
    """The step of a log's line; -1 for one that is not whole."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else -1
    except (ValueError, KeyError, TypeError):
        return -1

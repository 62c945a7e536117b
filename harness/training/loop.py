"""Algorithm 1 as a program: pre-fit, joint training, result; on one process or many, resumed from checkpoints.

No random state outlives a step: examples, n_c and dropout follow from the seed and the step's number. So a training
that was stopped and resumed ends with the same weights. A step's losses are those of its whole batch, however that is
divided among processes and micro-batches (see :mod:`harness.training.model`); only dropout is drawn for each
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

from harness.data.drawing.seeded_random import SeededRandom
from harness.errors import ScenarioError
from harness.files import make_folder
from harness.models import adapter
from harness.models.llava import Llava
from harness.reporter import Progress
from harness.runs.disk import discard, remove_unfinished
from harness.tofc.trained import MANIFEST
from harness.training import checkpoint, features, reading, recipe, result
from harness.training.card import HeldOut, Reduced, stage_of
from harness.training.codec import objective
from harness.training.config import TrainingConfig, reduces
from harness.training.fit import Group, Step, fit, learning_rate_factor
from harness.training.load import config_hash
from harness.training.log import LOG, Window, cut_log
from harness.training.model import Batch, SplitModel, Use
from harness.training.opening import open_backbone, open_codec, open_data
from harness.training.schedule import Schedule


class LogReporter(Progress, Protocol):
    """Shows a reader how far the training is, and its log."""

    def line(self, text: str) -> None:
        """Shows one line of the log."""
        ...


class Phase(NamedTuple):
    """A phase of training with an optimiser of its own: what is trained, at which peak rates, on which batches.

    ``temperature`` is T of a step of the phase, ``rate_weight`` its lambda.
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


class Training:
    """One training of a configuration, from its last checkpoint to its end.

    ``machine`` is a plain mapping that describes this machine, for the manifest.
    """

    def __init__(self, config: TrainingConfig, *, machine: Mapping[str, Any]) -> None:
        # accelerate keeps one state a process; another training in this one may have had another precision.
        AcceleratorState._reset_state()
        self.config = config
        self._machine = machine
        self.folder = Path(config.out)
        # Text without pictures does not use codec and tower in a step, and hard steps do not use the router.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        # Otherwise accelerate would not recognise the processes of torchrun on a CPU.
        on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
        if on_cpu and config.precision == "fp16":
            raise ScenarioError("precision: fp16 needs an accelerator, and this machine has none; bf16 runs anywhere")
        self.accelerator = Accelerator(mixed_precision=config.precision, cpu=on_cpu, kwargs_handlers=[unused])
        self.share = reading.Share(self.accelerator.process_index, self.accelerator.num_processes)
        self._check_batches()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device: torch.device = self.accelerator.device
        self.backbone: Any
        self.backbone, self._base = open_backbone(config, self.device)
        self.data = open_data(config, getattr(self.backbone, "template", None))
        self.pool, self.held_out = self._split()
        self._learnt_from = self.data.identity
        if left_out := len(self.data) - len(self.pool) - len(self.held_out):
            self._learnt_from += f", {left_out} of them left out for their held-out picture"
        self._identity = result.identity_of(config_hash(config), self._base, self._learnt_from)
        torch.manual_seed(config.seed)
        dim = self.backbone.feature_dim
        self.codec: Any = None
        self.reducer: Any = reduces(config.scheme).new_reducer(dim, max(config.clusters))
        if config.codec is not None:
            self.codec = open_codec(config.codec, dim).to(self.device)
        self._learned: Any = self.reducer.to(self.device) if isinstance(self.reducer, torch.nn.Module) else None
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
        """Examples to train on, and the last ones of different pictures, held out with all others of those pictures."""
        of_example = [self.data.picture(index) for index in range(len(self.data))]
        n_pictures = len({picture for picture in of_example if picture is not None})
        if n_pictures <= self.config.held_out:
            raise ScenarioError(
                f"held_out: {self.config.held_out} of the {n_pictures} pictures of the examples are to be held out; "
                "that leaves none to train on"
            )
        last: dict[str, int] = {}
        for index in reversed(range(len(of_example))):
            if (picture := of_example[index]) is not None and len(last) < self.config.held_out:
                last.setdefault(picture, index)
        return [index for index, picture in enumerate(of_example) if picture not in last], sorted(last.values())

    @property
    def is_complete(self) -> bool:
        """Whether the folder holds this training's result; raises ScenarioError where it holds another's."""
        found = result.identity(self.folder)
        if found is not None and found != self._identity:
            raise ScenarioError(
                f"{self.folder}: holds the result of another configuration, other weights or other data; --fresh "
                "replaces it, another 'out' keeps both"
            )
        return found is not None

    def plan(self) -> str:
        """What would be done, in a few lines."""
        config = self.config
        lora = config.lora.rank and adapter.size(self.backbone, config.lora.rank)
        own = self.codec or self._learned
        what = "the codec" if self.codec else f"the reducer of {config.scheme}"
        of_own = f"{sum(p.numel() for p in own.parameters()) / 1e6:.1f} M parameters of {what}, " if own else ""
        whole = self.backbone.model if isinstance(self.backbone, Llava) else self.backbone.vision_tower
        alone = "" if isinstance(self.backbone, Llava) else " of its vision tower, the only part that is needed,"
        size = sum(p.numel() for p in whole.parameters())
        return "\n".join(
            (
                f"{config.name}: {self._learnt_from}; {len(self.pool)} to train on, {len(self.held_out)} held out",
                f"backbone {config.backbone}: {size / 1e6:.1f} M parameters{alone} on {self.device}, weights "
                f"{' '.join(self._base.values())}",
                f"stage: {stage_of(config)}",
                f"trained: {of_own}{lora / 1e6:.1f} M of LoRA and projector",
                f"budget: {config.prefit.steps} steps of {config.prefit.batch} pictures on cached features, then "
                f"{self.joint_steps} of {config.batch} examples, {config.micro_batch} at once on each of "
                f"{self.share.processes} processes: {config.prefit.steps * config.prefit.batch} and "
                f"{self.joint_steps * config.batch} samples",
                f"recipe: {recipe.recipe_of(config)}",
                *(f"  adds {text}" for text in recipe.additions(config)),
                *(f"  departs: {text}" for text in recipe.departures(config)),
                *(
                    [
                        "the joint training can change the quantiser's step by a factor of "
                        f"{self.schedule.step_range():.3g}"
                    ]
                    if config.stage == "whole"
                    else ()
                ),
                *self.schedule.lines(),
            )
        )

    def run(self, reporter: LogReporter, *, fresh: bool = False) -> Path:
        """Train, measure and save; returns the folder. Raises as the data, the backbone and the checkpoint do.

        ``fresh`` deletes what another training left in the folder.
        """
        config, self._reporter = self.config, reporter
        if self.accelerator.is_main_process:
            remove_unfinished(self.folder)
            # The manifest first: a folder that has one is complete.
            for name in (MANIFEST, checkpoint.FILE, LOG, *result.FILES) if fresh else ():
                discard(self.folder / name)
        self.accelerator.wait_for_everyone()
        state = checkpoint.read(self.folder / checkpoint.FILE)
        if state and state.identity != self._identity:
            raise ScenarioError(
                f"{self.folder}: holds an unfinished training of another configuration, other weights or other data; "
                "--fresh starts over, another 'out' keeps both"
            )
        # A process's share of the cached features follows from how many there are.
        if state and state.stage == "prefit" and state.processes not in (None, self.share.processes):
            raise ScenarioError(
                f"{self.folder}: holds a pre-fit that began on {state.processes} processes, and there are "
                f"{self.share.processes} now; resume it on {state.processes}, or --fresh starts over"
            )
        make_folder(self.folder)
        if state:
            self.seconds = state.seconds
        elif self.accelerator.is_main_process:
            cut_log(self.folder / LOG, 0)
        if config.prefit.steps and (state is None or state.stage == "prefit"):
            self._train(self._prefit(), state)
            state = None
        elif state is None:
            self._begin()
        if self.joint_steps:
            self._train(self._joint(), state)
        if self.accelerator.is_main_process:
            self._finish()
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return self.folder

    def _prefit(self) -> Phase:
        config = self.config
        with_pictures = [index for index in self.pool if self.data.picture(index) is not None]
        chosen = [key.example for key in reading.keys_of_step(with_pictures, config.seed, len(with_pictures), 0)]
        mine = sorted(chosen[: config.prefit.pictures][self.share.rank :: self.share.processes])
        if not mine:
            raise ScenarioError(f"prefit.pictures: {config.prefit.pictures} are too few for every process to have one")
        reader = reading.Reader(self.data, self.backbone, config.max_tokens, pictures=False)
        self._reporter.phase("features", len(mine), 0)
        cache = Path(config.prefit.cache) if config.prefit.cache else None
        cached = features.merged_features(self.backbone, reader, mine, config.clusters, cache, self._reporter.advance)
        flat_1ND = features.flattened(cached).to(self.device)
        self._fit_scale(flat_1ND)
        variance: Any = self.accelerator.reduce(flat_1ND[0].var(0).mean(), "mean")

        def batches(first: int) -> Iterator[Batch]:
            return features.batches(
                cached, reader, seed=config.seed, batch=config.prefit.batch, share=self.share, first=first,
                n_clusters=self._clusters,
            )  # fmt: skip

        module = SplitModel(
            self.backbone, self.codec, merged=True, distortion=config.prefit.distortion, variance=float(variance)
        )
        weight, temperature = config.prefit_rate_weight, self.schedule.of_prefit
        return self._stage("prefit", config.prefit.steps, 0, weight, temperature, module, 1, batches)

    def _joint(self) -> Phase:
        config = self.config
        if config.lora.rank:
            # The adapter's first weights are drawn here, independent of what came before.
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

        module = SplitModel(self.backbone, self.codec, merged=False, reducer=self.reducer)
        micro_batches = config.batch // self.share.processes // config.micro_batch
        weight, temperature = config.rate_weight or 0.0, self.schedule.temperature
        return self._stage(
            "joint", self.joint_steps, config.prefit.steps, weight, temperature, module, micro_batches, batches
        )

    def _stage(
        self, name: str, steps: int, offset: int, rate_weight: float, temperature: Callable[[int], float],
        module: SplitModel, micro_batches: int, batches: Callable[[int], Iterator[Batch]],
    ) -> Phase:  # fmt: skip
        """A phase with its parameters by part; codec and router are groups of their own, outside the adapter."""
        names = ("codec", "step", "reducer", "language", "vision", "projector")
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in names}
        for key, p in self.codec.named_parameters() if self.codec else ():
            if p.requires_grad:
                parts["step" if key in ("offset_D", "log_step_D") else "codec"][f"codec.{key}"] = p
        for key, p in self._learned.named_parameters() if self._learned else ():
            parts["reducer"][f"reducer.{key}"] = p
        if self.peft is not None:
            for key, p in adapter.trainable(self.peft).items():
                parts[adapter.part_of(key)][f"adapter.{key}"] = p
        rates = self.config.learning_rates.model_dump()
        rates["reducer"] = rates["codec"]
        parts = {part: parameters for part, parameters in parts.items() if parameters}
        return Phase(name, steps, offset, rate_weight, temperature, module, rates, parts, micro_batches, batches)

    def _clusters(self, step: int) -> int:
        return reading.clusters_of_step(self.config.clusters, self.config.seed, step)

    def _fit_scale(self, y_1ND: Tensor) -> None:
        """Start from these features: the router's normalisation, and the quantiser's step unless that is one."""
        self.codec.fit_scale(y_1ND)
        if self.config.codec is not None and self.config.codec.step == "one":
            with torch.no_grad():
                for scale in self.codec.scale_parameters():
                    scale.zero_()

    def _begin(self) -> None:
        """Initialise what depends on the features' scale from those of a few pictures, if there is no pre-fit."""
        few = self._few()
        if self.codec is not None:
            reader = reading.Reader(self.data, self.backbone, self.config.max_tokens, pictures=False)
            few_cached = features.merged_features(self.backbone, reader, few, self.config.clusters, None, lambda: None)
            self._fit_scale(features.flattened(few_cached).to(self.device))
        elif self._learned is not None:
            pictures = [image() for index in few if (image := self.data.example(index, 0).image) is not None]
            seen = [self.backbone.encode(self.backbone.preprocess(picture)).float() for picture in pictures]
            self._learned.fit_scale(torch.cat(seen))

    def _few(self) -> list[int]:
        """A few examples with pictures, of those to train on."""
        return [index for index in self.pool if self.data.picture(index) is not None][: len(self.held_out)]

    def _use(
        self, phase: Phase, parts: Sequence[Batch], seeds: Sequence[int], step: int, n_clusters: int
    ) -> Use | None:
        """How a step's features use the models, from a pass of its own; None where the step is one micro-batch.

        The pass runs tower and router without gradients, with the random numbers of the other one.
        """
        temperature = phase.temperature(step)
        in_all = len(parts) * self.share.processes
        if not hasattr(self.codec, "router") or in_all == 1 or temperature == 0 or self.config.alpha == 0:
            return None
        total: Any = 0
        for batch, seed in zip(parts, seeds, strict=True):
            torch.manual_seed(seed)
            with self.accelerator.autocast():
                total = total + phase.module.used(batch, n_clusters, temperature)
        total = self.accelerator.reduce(total, "sum")
        features = max(1.0, float(total[-1]))
        return Use(total[:-1] / features, features, in_all)

    def _train(self, phase: Phase, state: checkpoint.State | None) -> None:
        config, accelerator = self.config, self.accelerator
        named = {name: p for part in phase.parameters.values() for name, p in part.items()}
        if not named:
            return  # Only a codec without parameters: it is derived from features when it is frozen.
        if state:
            self._restore(state, named)
        first = state.steps if state else 0
        accelerator.gradient_accumulation_steps = phase.micro_batches
        phase.module.train()
        window = Window(self.device)
        taken = fit(
            [Group(name=name, parameters=part, rate=phase.rates[name]) for name, part in phase.parameters.items()],
            phase.steps,
            functools.partial(self._losses, phase, accelerator.prepare(phase.module), window),
            factor=lambda step: learning_rate_factor(step, phase.steps, config.warm_up),
            gradient_norm=config.gradient_norm,
            backend=accelerator,
            state=state,
            save=functools.partial(self._save, phase, named),
            save_every=config.save_every,
        )
        self._reporter.phase(phase.name, phase.steps, first)
        begun = time.monotonic()
        for step in taken:
            done = step.number + 1
            if done % config.log_every == 0 or done == phase.steps:
                self._log(phase, done, window, step)
            self._reporter.advance()
        self.seconds += time.monotonic() - begun
        # The next phase wraps the same weights: this one's hooks on their gradients must be gone.
        del taken
        accelerator.free_memory()

    def _losses(self, phase: Phase, module: Any, window: Window, first: int) -> Iterator[Iterator[Tensor]]:
        """The losses of each step's micro-batches, from step ``first`` on."""
        batches = phase.batches(first)
        for step in range(first, phase.steps):
            yield self._of_step(phase, module, window, step, [next(batches) for _ in range(phase.micro_batches)])

    def _of_step(
        self, phase: Phase, module: Any, window: Window, step: int, parts: Sequence[Batch]
    ) -> Iterator[Tensor]:
        config = self.config
        temperature, n_clusters = phase.temperature(step), self._clusters(step)
        generators = (
            SeededRandom("dropout", config.seed, phase.offset + step, m, self.share.rank) for m in range(len(parts))
        )
        seeds = [rng.below(2**31) for rng in generators]
        use = self._use(phase, parts, seeds, step, n_clusters)
        for batch, seed in zip(parts, seeds, strict=True):
            # After the reading, which may draw random numbers when it starts.
            torch.manual_seed(seed)
            with self.accelerator.accumulate(module):
                losses = module(batch, n_clusters, temperature, use)
                loss = objective(losses.distortion, losses.rate, losses.imbalance, phase.rate_weight, config.alpha)
                window.add(loss, losses.distortion, losses.rate, config.alpha * losses.imbalance, losses.right)
                # Its gradient is taken while accelerate holds back the exchange between processes.
                yield loss

    def _log(self, phase: Phase, done: int, window: Window, step: Step) -> None:
        mean, seconds = window.means(self.accelerator)
        if not all(value == value and abs(value) != float("inf") for value in mean.values()):
            raise ScenarioError(
                f"{self.config.name}: the losses are {mean} at step {done} of {phase.name}; lower learning rates or "
                "precision: no may help; the last checkpoint is kept"
            )
        entry = {
            **mean,
            "T": round(phase.temperature(step.number), 4),
            "grad_norm": round(float(step.norm), 4),
            **{f"lr_{part}": float(f"{phase.rates[part] * step.factor:.4g}") for part in phase.parameters},
            "seconds_a_step": round(seconds * phase.micro_batches, 4),
            "epoch": round(done * self.config.batch / len(self.pool), 4) if phase.name == "joint" else 0.0,
            "stage": phase.name,
            "step": phase.offset + done,
        }
        if self.accelerator.is_main_process:
            self._reporter.line(str(entry))
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def _save(
        self, phase: Phase, named: Mapping[str, Tensor], done: int, seconds: float, moments: Mapping[str, Tensor]
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors = {
            f"{part}:{key}": t.detach().cpu().contiguous()
            for part, module in self._own()
            for key, t in module.state_dict().items()
        }
        tensors |= {f"weight:{name}": p.detach().cpu().contiguous() for name, p in named.items() if "adapter." in name}
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {}
        state = checkpoint.State(
            identity=self._identity,
            stage=phase.name,
            steps=done,
            seconds=self.seconds + seconds,
            scaler=scaler,
            tensors={**tensors, **moments},
            processes=self.share.processes,
        )
        checkpoint.write(self.folder / checkpoint.FILE, state)

    def _own(self) -> list[tuple[str, Any]]:
        """What is trained besides the backbone."""
        return [(n, module) for n, module in (("codec", self.codec), ("reducer", self._learned)) if module is not None]

    def _restore(self, state: checkpoint.State, named: Mapping[str, Tensor]) -> None:
        """Restores weights and loss scale, and removes what the log has after them."""
        for part, module in self._own():
            prefix = f"{part}:"
            mine = {name.removeprefix(prefix): t for name, t in state.tensors.items() if name.startswith(prefix)}
            module.load_state_dict(mine)
        with torch.no_grad():
            for name, p in named.items():
                if f"weight:{name}" in state.tensors:
                    p.copy_(state.tensors[f"weight:{name}"])
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(dict(state.scaler))
        if self.accelerator.is_main_process:
            cut_log(self.folder / LOG, state.steps + (self.config.prefit.steps if state.stage == "joint" else 0))

    def _finish(self) -> None:
        if self.peft is not None:
            adapter.halve(self.peft)
        if self._learned is not None:
            self._learned.half().float()
        self._reporter.phase("held out", len(self.held_out), 0)
        module = SplitModel(self.backbone, self.codec, merged=True, reducer=self.reducer).eval()
        reader = reading.Reader(self.data, self.backbone, self.config.max_tokens)
        clusters, advance = self.config.clusters, self._reporter.advance
        found: Sequence[HeldOut] | Sequence[Reduced]
        if self.codec is not None:
            result.freeze(self.codec, self.backbone, reader, self._few(), clusters)
            found = result.measure(module, self.backbone, reader, self.held_out, clusters, advance)
        else:
            plain = self.peft.disable_adapter
            found = result.measure_reduced(module, self.backbone, reader, self.held_out, clusters, plain, advance)
        result.write(
            self.folder,
            self.config,
            codec=self.codec,
            reducer=self._learned,
            peft=self.peft,
            backbone=self.backbone,
            base=self._base,
            data=self._learnt_from,
            steps=(self.config.prefit.steps, self.joint_steps),
            seconds=self.seconds,
            processes=self.share.processes,
            measured=found,
            machine=self._machine,
        )
        (self.folder / checkpoint.FILE).unlink(missing_ok=True)

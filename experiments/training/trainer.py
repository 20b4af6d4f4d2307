"""One training step, the same for every method: the adversaries move, then the policy moves.

What an objective estimates over a whole update (KTO's drift) comes first, by a forward without gradient.
With one micro-batch a step, a step is the paper's: policy forward, reference forward, the adversaries' update on
detached outputs, the policy's update on objective + Σ weight · penalty. With several, the adversaries first see all of
them (one more policy forward, without gradient), so that accumulation does not change who moves when. A critic, which
the policy's loss does not read, learns beside it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from experiments.experiment import Training
from experiments.models.forward import Policy, Scored
from experiments.models.sharding import Sharding, like, whole
from experiments.training.batches import Micro, micros, only, recorded
from experiments.training.players import (
    Player,
    frozen,
    load_optimizer,
    make_player,
    optimizer_state,
    private_randomness,
)
from experiments.training.sources import Source, TrainingContext
from experiments.training.step_log import Logs, check_finite
from methods.protocols import Adversary, Critic, Estimator, Method, Part, Penalizer, Starter
from methods.types import Batch, Loss, Outputs, Role, mean_over_ranks

# nats a token between the policy before its first step and the reference store: of the worst token, or of the mean one
START_TOLERANCE = {"float32": 1e-2, "bfloat16": 5e-2}


class Trainer:
    """Trains `policy` in place; `reference` is a frozen one where one must be run and no adapter can be put off."""

    def __init__(
        self,
        method: Method,
        policy: Policy,
        source: Source,
        training: Training,
        *,
        seed: int,
        lr: float,
        stored: Mapping[int, Scored],
        reference: Policy | None = None,
        accelerator: Accelerator | Sharding | None = None,
        trouble: Path | None = None,
        scorers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """`stored` maps a row's number to its reference log-probs; `trouble` is where a batch that broke is written;
        `scorers` are the networks, by part, that parts name and do not build."""
        self.method, self.training, self.source, self.seed = method, training, source, seed
        self.stored, self.reference, self.trouble = stored, reference, trouble
        self.accelerator = accelerator or Accelerator()
        self.policy, self.lr = policy, lr
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        optimizer = AdamW(trained, lr=lr, weight_decay=training.weight_decay, fused=True)
        parts: list[Part] = [*method.regularizers]
        if isinstance(method.objective, Critic):
            parts.append(method.objective)
        self.players = [
            make_player(
                part,
                scorers or {},
                hidden_size=policy.hidden_size,
                seed=seed,
                policy_lr=lr,
                accelerator=self.accelerator,
            )
            for part in parts
        ]
        prepared: tuple[Any, Any] = self.accelerator.prepare(policy, optimizer)
        self.wrapped, self.optimizer = prepared
        if reference is not None:
            reference.requires_grad_(False).to(self.accelerator.device)
        nets = {player.spec.name: player.net for player in self.players}
        source.attach(TrainingContext(policy, reference, nets, self.accelerator))
        self.step_number = 0
        self.losses: list[tuple[Tensor, str, Micro]] = []  # since the last update, to be looked at before the next

    def step(self) -> dict[str, float]:
        """One update of every player; returns what to log. Raises NonFiniteError."""
        parts = self._micros()
        factor = schedule(self.step_number, self.training.steps, self.training.warmup_ratio)
        logs = Logs()
        references = [self._reference(micro) for micro in parts]
        parts = self._estimated(parts, references)
        seated = [player for player in self.players if player.net is not None]
        adversaries = [player for player in seated if isinstance(player.spec, Adversary)]
        critics = [player for player in seated if isinstance(player.spec, Critic)]
        ahead = len(parts) > 1 and bool(adversaries)
        if ahead:
            self._start(adversaries, parts, references)
            for i, (micro, reference) in enumerate(zip(parts, references, strict=True)):
                seen = self._seen(micro)
                self._teach(adversaries, i, micro, seen, reference, logs, last=i == len(parts) - 1)
            self._move(adversaries, parts, factor, logs)
        for i, (micro, reference) in enumerate(zip(parts, references, strict=True)):
            last = i == len(parts) - 1
            with self._sync(self.wrapped, last):
                outputs = self._forward(self.wrapped, only(micro.batch, self.method.trained_roles))
                if self.step_number == 0:
                    self._check_start(outputs, reference)
                if self.method.watched_roles:
                    with torch.no_grad():
                        watched = self._forward(self.policy, only(micro.batch, self.method.watched_roles))
                    outputs = {**outputs, **watched}
                taught = [*critics, *(() if ahead else adversaries)]
                if taught:
                    detached = {role: output.detach() for role, output in outputs.items()}
                    self._teach(taught, i, micro, detached, reference, logs, last=last)
                    self._move(() if ahead else adversaries, [micro], factor, logs)
                total = self._total(micro, outputs, reference, logs)
                self.losses.append((total.detach(), "loss", micro))
                self.accelerator.backward(total * micro.share)
        self._move(critics, parts, factor, logs)
        norm = self._descend(parts, factor)
        for player in adversaries:
            player.spec.end_step(player.net)  # type: ignore[attr-defined]
        self.step_number += 1
        tokens = torch.stack([block.attention.sum() for micro in parts for block in micro.batch.blocks.values()]).sum()
        logs.put("tokens", tokens * self.accelerator.num_processes)  # a sum, as a mean over ranks
        given = self.source.metrics(self.step_number - 1)
        return logs.means() | {"grad_norm": float(norm), "lr": self._rate(factor, self.step_number - 1)} | given

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name. Random states are derived from seed and step.

        Of a sharded policy all processes must ask, and only the main one gets the whole tensors.
        """
        keep = self.accelerator.is_main_process
        trained = [(name, p.detach()) for name, p in self.policy.named_parameters() if p.requires_grad]
        tensors = {f"policy/{name}": whole(value, keep=keep) for name, value in trained}
        tensors |= {key: whole(v, keep=keep) for key, v in optimizer_state("policy", self.optimizer).items()}
        for player in self.players:
            tensors |= player.state()
        return tensors | {f"source/{name}": value for name, value in self.source.state().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Continue after `step` updates from what `state` returned then."""
        for name, parameter in self.policy.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(like(tensors[f"policy/{name}"], parameter))
        load_optimizer("policy", self.optimizer, tensors)
        for player in self.players:
            player.load(tensors)
        prefix = "source/"
        self.source.load({k.removeprefix(prefix): value for k, value in tensors.items() if k.startswith(prefix)})
        self.step_number = step

    def _micros(self) -> list[Micro]:
        return micros(
            self.source.step(self.step_number),
            self.method.forwards,
            size=self.training.micro_batch_size,
            step=self.step_number,
            num_steps=self.training.steps,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            device=self.accelerator.device,
        )

    @torch.no_grad()
    def _estimated(self, parts: list[Micro], references: Sequence[Mapping[Role, Outputs]]) -> list[Micro]:
        """The micro-batches with what the objective reads of the whole update, of all processes."""
        objective = self.method.objective
        if not isinstance(objective, Estimator):
            return parts
        values = [torch.zeros(0, device=self.accelerator.device)]
        for micro, reference in zip(parts, references, strict=True):
            batch = only(micro.batch, objective.estimates_from)
            if batch.blocks:
                outputs: dict[Role, Outputs] = self.policy(batch.blocks, precision=self.training.precision)
                values.append(objective.estimate(outputs, reference))
        found = torch.cat(values)
        total, count = mean_over_ranks(torch.stack([found.sum(), found.new_tensor(float(len(found)))]))
        if not count:
            raise ValueError(
                f"{objective.name} takes a mean over {', '.join(objective.estimates_from)} rows, and an update has none"
            )
        return [replace(micro, batch=replace(micro.batch, estimate=total / count)) for micro in parts]

    def _forward(self, policy: nn.Module, batch: Batch, *, logps: bool = True) -> dict[Role, Outputs]:
        outputs: dict[Role, Outputs] = policy(
            batch.blocks,
            logps=logps,
            hidden=self.method.needs("hidden"),
            padded_hidden=self.method.needs("padded_hidden"),
            states=self.method.needs("states"),
            precision=self.training.precision,
        )
        return outputs

    @torch.no_grad()
    def _reference(self, micro: Micro) -> dict[Role, Outputs]:
        """Log-probs as they were recorded; hidden states, where a part reads them, from a forward without a head."""
        if not self.method.needs("reference"):
            return {}
        latent: dict[Role, Outputs] = {}
        if self.method.needs("hidden") or self.method.needs("padded_hidden"):
            batch = micro.batch
            if not (self.method.needs("hidden", "sampled") or self.method.needs("padded_hidden", "sampled")):
                batch = Batch({role: block for role, block in batch.blocks.items() if role != "sampled"})
            if self.reference is not None:
                latent = self._forward(self.reference, batch, logps=False)
            else:
                with self.policy.adapter_disabled():
                    latent = self._forward(self.policy, batch, logps=False)
        return recorded(micro, self.stored, latent, self.accelerator.device)

    @torch.no_grad()
    def _seen(self, micro: Micro) -> dict[Role, Outputs]:
        """Outputs that the adversaries look at before the policy runs with gradient."""
        roles = (*self.method.trained_roles, *self.method.watched_roles)
        return self._forward(self.policy, only(micro.batch, roles), logps=False)

    @torch.no_grad()
    def _start(
        self, adversaries: Sequence[Player], parts: Sequence[Micro], references: Sequence[Mapping[Role, Outputs]]
    ) -> None:
        """Show the whole of a first update to the adversaries whose statistics begin with it."""
        fresh = [p for p in adversaries if p.net and isinstance(p.spec, Starter) and not p.spec.started(p.net)]
        if not fresh:
            return
        for i, (micro, reference) in enumerate(zip(parts, references, strict=True)):
            seen = self._seen(micro)
            for player in fresh:
                assert player.net is not None
                assert isinstance(player.spec, Starter)
                player.net.train()
                with private_randomness(self.seed, player.spec.name, self.step_number, i):
                    player.spec.adversary_loss(player.net, micro.batch, seen, reference)
        for player in fresh:
            assert player.net is not None
            assert isinstance(player.spec, Starter)
            player.spec.start(player.net)

    def _teach(
        self,
        players: Sequence[Player],
        micro_number: int,
        micro: Micro,
        policy: Mapping[Role, Outputs],
        reference: Mapping[Role, Outputs],
        logs: Logs,
        *,
        last: bool,
    ) -> None:
        for player in players:
            assert player.net is not None
            player.net.train()
            learns = player.optimizer is not None
            with (
                private_randomness(self.seed, player.spec.name, self.step_number, micro_number),
                self._sync(player.wrapped, last) if learns else torch.no_grad(),
            ):
                title, net = "critic" if isinstance(player.spec, Critic) else "adversary", player.wrapped
                if isinstance(player.spec, Critic):
                    loss = player.spec.value_loss(net, micro.batch, policy)
                else:
                    assert isinstance(player.spec, Adversary)
                    loss = player.spec.adversary_loss(net, micro.batch, policy, reference)
                logs.add(f"{player.spec.name}/{title}", loss, micro.share)
                if learns:
                    self.losses.append((loss.value.detach(), f"{player.spec.name}/{title}/loss", micro))
                    self.accelerator.backward(loss.value * micro.share)

    def _move(self, players: Sequence[Player], parts: Sequence[Micro], factor: float, logs: Logs) -> None:
        for player in players:
            every = getattr(player.spec, "update_every", 1)
            if player.optimizer is not None:
                name = f"{player.spec.name}/critic" if isinstance(player.spec, Critic) else player.spec.name
                if (self.step_number + 1) % every == 0:
                    norm = self.accelerator.clip_grad_norm_(player.net.parameters(), self.training.max_grad_norm)  # type: ignore[union-attr]
                    self._finite(norm, f"{name}/gradient", parts)
                    for group in player.optimizer.param_groups:
                        group["lr"] = player.lr * factor
                    player.optimizer.step()
                    player.optimizer.zero_grad()
                    logs.put(f"{name}/grad_norm", norm)
                logs.put(f"{name}/updates", torch.tensor(float((self.step_number + 1) // every)))

    def _descend(self, parts: Sequence[Micro], factor: float) -> Tensor:
        """The policy's update; the norm of its gradient."""
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        norm: Tensor = self.accelerator.clip_grad_norm_(trained, self.training.max_grad_norm)
        self._finite(norm, "gradient", parts)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(factor, self.step_number)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _rate(self, factor: float, step: int) -> float:
        return self.lr * factor * self.source.lr_factor(step)

    def _total(
        self, micro: Micro, policy: Mapping[Role, Outputs], reference: Mapping[Role, Outputs], logs: Logs
    ) -> Tensor:
        loss = self.method.objective.loss(micro.batch, policy, reference)
        logs.add(self.method.objective.name, loss, micro.share)
        total = loss.value
        for player in self.players:
            if isinstance(player.spec, Penalizer):
                with frozen(player.net):
                    penalty = player.spec.penalty(player.net, micro.batch, policy, reference)
                logs.add(f"{player.spec.name}/penalty", penalty, micro.share)
                if player.spec.weight:  # a term of weight 0 must not touch a bit of the gradient
                    total = total + player.spec.weight * penalty.value
        logs.add("", Loss(total), micro.share)
        return total

    def _check_start(self, policy: Mapping[Role, Outputs], reference: Mapping[Role, Outputs]) -> None:
        for role in reference.keys() & policy.keys():
            gaps = (policy[role].logps.detach() - reference[role].logps).abs()[reference[role].mask]
            rounded = self.training.precision != "float32"  # single unlikely tokens may then differ by much
            gap, allowed = gaps.mean() if rounded else gaps.max(), START_TOLERANCE[self.training.precision]
            which = "the mean" if rounded else "a"
            if not gap <= allowed:
                raise ValueError(
                    f"policy and reference differ by {gap:.3g} nats on {which} {role} token before the first step"
                    f" (at most {allowed} allowed): the reference must be the model that training starts from"
                )

    def _finite(self, norm: Tensor, what: str, parts: Sequence[Micro]) -> None:
        """Before an update: the losses that led to it, looked at together, and its gradient. Raises NonFiniteError."""
        losses, self.losses = self.losses, []
        if losses and not torch.stack([value for value, *_ in losses]).isfinite().all():
            for value, name, micro in losses:
                self._check(value, name, [micro])
        self._check(norm, what, parts)

    def _check(self, value: Tensor, what: str, parts: Sequence[Micro]) -> None:
        check_finite(
            value,
            what,
            nets=[self.policy, *(player.net for player in self.players if player.net is not None)],
            micros=parts,
            step=self.step_number + 1,
            keep=self.trouble,
        )

    def _sync(self, model: Any, last: bool) -> Any:
        return contextlib.nullcontext() if last else self.accelerator.no_sync(model)


def schedule(step: int, steps: int, warmup_ratio: float) -> float:
    """Linear warm-up, then a cosine to 0; `step` counts from 0 and no step has a factor of 0."""
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

"""CPC-SAM: cross prompting consistency with SAM (Miao et al., MICCAI 2024), section by section.

Two mask decoders share one image encoder with LoRA and one prompt encoder (section 2.1). The unprompted output of one
branch chooses points that prompt the other (2.2); a centre and a random point give two prompted outputs, whose mean is
the pseudo label of the unprompted output of the first branch (Eq. 1) and of the randomly prompted output itself (Eq.
2). Labelled images supervise every output (Eq. 3). At test time both branches are unprompted, and averaged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from lightning_samseg.adapters.files import load_adapter_into
from lightning_samseg.errors import UserError
from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.methods.base import BaseMethod
from lightning_samseg.methods.encode_once import look_up_encodings
from lightning_samseg.metrics.on_device import agreement, confidence, empty_fraction, likeliest
from lightning_samseg.models.branched_sam import BranchedSam
from lightning_samseg.models.compiling import compile_for_training
from lightning_samseg.models.sam_config import AdapterConfig, DecoderInit, PretrainedSam
from lightning_samseg.prompts.points import ClassPoints, PromptsConfig, start_class_points
from lightning_samseg.semi.ramps import sigmoid_ramp
from lightning_samseg.types import IGNORED, Batch, Case, Marks, Panel, SemiBatch


@dataclass(frozen=True)
class LossConfig:
    """Weights in the loss: the arguments under ``loss:``.

    Args:
        lambda_cross: lambda_1, weight of the cross prompting loss (0.4).
        lambda_consistency: lambda_2, weight of the prompt consistency loss (0.05).
        lambda_ramp_iters: Iterations, from the first with unlabelled images, in which both weights rise as Laine and
            Aila's ramp (``semi.ramps``); 0, as in paper and code, for none.
        supervised_dice: Share of Dice in the supervised loss of unprompted outputs (0.8, with 0.2 cross-entropy).
        prompted_dice: The same for prompted outputs: 0.5 in the paper (Eq. 3), 0.8 in the authors' code.
    """

    lambda_cross: float = 0.4
    lambda_consistency: float = 0.05
    lambda_ramp_iters: int = 0
    supervised_dice: float = 0.8
    prompted_dice: float = 0.5


class Terms(NamedTuple):
    """One direction's losses: a branch prompted by the other one."""

    prompted: Tensor
    """Its part of Eq. 3, on labelled images."""
    cross: Tensor
    """Its half of L_cross, Eq. 1, on unlabelled images."""
    consistency: Tensor
    """Its half of L_c, Eq. 2, on unlabelled images."""


class CpcSam(BaseMethod):
    """CPC-SAM. Every difference between paper and authors' code and every ablation is an argument.

    Defaults are the paper's losses and single update, and the code's prompts, pseudo labels and late start of them;
    ``experiments/cpc_sam/preset_paper.yaml`` and ``preset_code.yaml`` go all the way.

    Args:
        sam: SAM to adapt.
        adapter: What is trained in its image encoder: in the paper LoRA.
        decoder_init: ``random`` as in the paper, or ``pretrained`` where SAM's decoder fits.
        embedding_pool: Side of the squares of embedding cells that are averaged before a decoder sees them: 2 makes
            its passes about four times as cheap, and outlines coarser.
        update: ``joint``, the paper: one total loss, one encoder pass, one AdamW step. ``sequential``, the authors'
            code: a supervised round, then one for each direction, each with its own encoder pass, predictions and AdamW
            step.
        architecture: Fig. 4: ``two_branches`` (the method), ``one_branch`` that prompts itself, ``two_models`` apart.
        cross: Table 2: ``prompted`` (the method), ``unprompted`` outputs that supervise each other (row 2), ``none``
            (row 1).
        prompts: Points that one branch prompts the other by.
        ensemble: Fig. 3: whether the mean of the prompted outputs makes the pseudo label, or the centre's alone.
        pseudo: ``hard`` pseudo labels, the most probable class, as in the authors' code; ``soft``: its probabilities,
            as Eqs. 1 and 2 are written.
        consistency_on: Fig. 3: outputs that the consistency loss acts on, ``random`` (the method) or ``both``.
        ssl_start_iter: First iteration with prompts and unlabelled images; before it only the unprompted supervised
            loss acts. None for a sixth of the run; the authors' code has 5,000, however long the run.
        loss: Weights of its terms.
        min_confidence: Pixels of a hard pseudo label that is less probable teach nothing; 0, as in paper and code, for
            all pixels teach.
        feature_dropout: Share of the channels of an unlabelled image's embedding that are zero where the unprompted
            output is taught (UniMatch's perturbation of features); the outputs that prompt and that teach see all.
        branch: Which prediction is tested: ``ensemble`` (the paper), or one branch.
        select_branch: Which prediction validation selects ``best.ckpt`` by: ``ensemble``, or one branch; the authors'
            code takes 1.
        compile: Whether the encoder's blocks and the decoders are compiled for training (``torch.compile``): minutes at
            the start, fewer seconds per iteration.
        checkpointing: Whether the backward pass computes the encoder's blocks anew: less memory, a third more time.
        encode_once: Whether the encoder's frozen first blocks encode each of ``data.views`` once, and what they make is
            kept in ``$SAMSEG_CACHE/encoded``.
        base: Arguments of :class:`BaseMethod`.
    """

    uses_unlabelled = True

    def __init__(
        self,
        sam: PretrainedSam = PretrainedSam(),
        adapter: AdapterConfig = AdapterConfig(),
        decoder_init: DecoderInit = "random",
        embedding_pool: int = 1,
        update: Literal["joint", "sequential"] = "joint",
        architecture: Literal["two_branches", "one_branch", "two_models"] = "two_branches",
        cross: Literal["prompted", "unprompted", "none"] = "prompted",
        prompts: PromptsConfig = PromptsConfig(),
        ensemble: bool = True,
        pseudo: Literal["hard", "soft"] = "hard",
        consistency_on: Literal["random", "both"] = "random",
        ssl_start_iter: int | None = None,
        loss: LossConfig = LossConfig(),
        min_confidence: float = 0.0,
        feature_dropout: float = 0.0,
        branch: Literal["ensemble", "1", "2"] = "ensemble",
        select_branch: Literal["ensemble", "1", "2"] = "ensemble",
        compile: bool = False,
        checkpointing: bool = False,
        encode_once: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.update, self.cross, self.ssl_start_iter = update, cross, ssl_start_iter
        self.prompts, self.loss = prompts, loss
        self.ensemble, self.pseudo, self.consistency_on = ensemble, pseudo, consistency_on
        self.min_confidence, self.feature_dropout = min_confidence, feature_dropout
        self.branch, self.select_branch, self.encode_once = branch, select_branch, encode_once
        self.uses_unlabelled = cross != "none"
        self.automatic_optimization = update == "joint"

        build = partial(
            BranchedSam,
            sam,
            self.image_size,
            self.num_classes,
            decoder_init=decoder_init,
            adapter=adapter,
            embedding_pool=embedding_pool,
        )
        self.sam = build(branches=2 if architecture == "two_branches" else 1)
        self.second_sam = build(branches=1) if architecture == "two_models" else None
        if adapter.file is not None:
            load_adapter_into(self.sam, adapter.file)
        self.compiles = compile
        for each in self.sams if checkpointing else ():
            each.recompute_blocks()
        self.branches = (0,) if architecture == "one_branch" else (0, 1)
        if cross != "prompted":
            for parameter in self.prompt_parameters():
                parameter.requires_grad_(False)

    @property
    def sams(self) -> list[BranchedSam]:
        """The networks: one, or two apart."""
        return [self.sam] if self.second_sam is None else [self.sam, self.second_sam]

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the pretrained weights."""
        return self.sam.weights_sha256

    def on_fit_start(self) -> None:
        """Say so when the run is too short for what makes the method; compile and look up what is asked for."""
        for sam in self.sams if self.encode_once else ():
            look_up_encodings(sam, self.trainer)
        partial = self.cross == "unprompted" or self.second_sam is not None
        if self.update == "sequential" and partial and self.trainer.world_size > 1:
            raise UserError(
                "The sequential schedule of this ablation runs in one process: each round trains a part of the model.",
                found=f"{self.trainer.world_size} processes",
                fix="set --model.update joint, or --trainer.devices 1",
            )
        if self.uses_unlabelled and self.ssl_start >= self.trainer.max_steps:
            rank_zero_warn(
                f"No unlabelled image will be used: they and the prompts start at iteration {self.ssl_start}, and the "
                f"run ends at {self.trainer.max_steps}. Set --model.ssl_start_iter."
            )
        if self.compiles:
            compile_for_training(self.sams, self.device)

    def training_step(self, batch: SemiBatch | Batch, batch_idx: int) -> Tensor:
        """One iteration of ``L_s + lambda_1 L_cross + lambda_2 L_c``, in one step or in three."""
        labelled: Batch = batch["labelled"] if self.uses_unlabelled else batch  # type: ignore[typeddict-item, assignment]
        images, target = labelled["image"], labelled["mask"]
        ssl = self.ssl_active
        if ssl:  # before that the unlabelled images would be encoded and thrown away
            images = torch.cat([images, batch["unlabelled"]["image"]])  # type: ignore[typeddict-item]
        step = self.joint_loss if self.update == "joint" else self.sequential_update
        loss = step(images, target, ssl)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def joint_loss(self, images: Tensor, target: Tensor, ssl: bool) -> Tensor:
        """The paper's total loss, on one encoder pass.

        Args:
            images: ``(B, 3, S, S)``, the L labelled ones first.
            target: int64 ``(L, S, S)``.
            ssl: Whether this iteration uses prompts and unlabelled images.
        """
        embeddings = self.encode(images)
        unprompted = [self.decode(embeddings, branch) for branch in self.branches]
        guesses = [likeliest(output) for output in unprompted]
        points = None
        if ssl and self.cross == "prompted":
            others = [guesses[self.other(branch)] for branch in self.branches]
            points = self.start_points(others, self.branches, target)
        loss = self.supervised_loss(unprompted, guesses, target)  # meanwhile points are chosen on the host
        if points is None:
            loss = loss + self.zero_of_prompts()
        if ssl:
            for branch in self.branches:
                terms = self.direction(embeddings, unprompted[self.other(branch)], branch, target, points)
                loss = loss + self.weighted(terms, branch)
        return loss

    def sequential_update(self, images: Tensor, target: Tensor, ssl: bool) -> Tensor:
        """The authors' three rounds, each with the weights that the round before has just written.

        Returns:
            The sum of the rounds' losses, to be logged.
        """
        embeddings = self.encode(images[: len(target)])
        outputs = [self.decode(embeddings, branch) for branch in self.branches]
        loss = self.supervised_loss(outputs, [likeliest(output) for output in outputs], target)
        total = self.optimize(loss + self.zero_of_prompts(), last=not ssl, prompts_used=False)
        if ssl:
            for branch in self.branches:
                embeddings = self.encode(images)
                unprompted = self.decode(embeddings, self.other(branch), train_prompt=False)
                last, prompts_used = branch == self.branches[-1], self.cross == "prompted"
                points = self.start_points([likeliest(unprompted)], [branch], target) if prompts_used else None
                loss = self.weighted(self.direction(embeddings, unprompted, branch, target, points), branch)
                total = total + self.optimize(loss, last, prompts_used)
        self.lr_schedulers().step()  # type: ignore[union-attr]
        return total

    def supervised_loss(self, unprompted: Sequence[Tensor], guesses: Sequence[Tensor], target: Tensor) -> Tensor:
        """The unprompted part of Eq. 3: the sum over branches of 0.8 Dice + 0.2 cross-entropy on labelled images."""
        losses = [dice_ce_loss(output[: len(target)], target, self.loss.supervised_dice) for output in unprompted]
        loss = torch.stack(losses).sum()
        empty = torch.stack([empty_fraction(guess) for guess in guesses]).mean()
        self.log_dict({"train/supervised": loss.detach(), "train/empty_predictions": empty})
        if len(guesses) == 2:
            self.log("train/agreement", agreement(*guesses))
        return loss

    def direction(
        self,
        embeddings: Sequence[Tensor],
        unprompted: Tensor,
        branch: int,
        target: Tensor,
        points: Callable[[int], ClassPoints] | None = None,
    ) -> Terms:
        """Prompt one branch by the other and compare (sections 2.2 and 2.3).

        Args:
            embeddings: Of each branch, ``(B, 256, E, E)``, the L labelled images first.
            unprompted: Logits ``(B, K, S, S)`` of the other branch.
            branch: The branch that is prompted, and whose outputs teach the other.
            target: int64 ``(L, S, S)``.
            points: Gives what the branch is prompted by; None if nothing is prompted.
        """
        labelled = len(target)
        student = self.student(embeddings, unprompted, branch, labelled)
        if points is None:
            with torch.no_grad():
                teacher = self.decode([e[labelled:] for e in embeddings], branch).float().softmax(1)
            zero = unprompted.new_zeros(())
            return Terms(zero, dice_ce_loss(student, self.pseudo_label(teacher), 0.5), zero)

        supervised, taught, teachers, on_known = [], [], [], []
        for place, label, is_random in points(branch).prompts(self.prompts.separate):
            if is_random or self.consistency_on == "both":
                output = self.decode(embeddings, branch, place, label)
                on_labelled, on_unlabelled = output[:labelled], output[labelled:]
                taught.append(on_unlabelled)
            else:  # on unlabelled images this output only helps to make the pseudo label
                on_labelled = self.decode(
                    [e[:labelled] for e in embeddings], branch, place[:labelled], label[:labelled]
                )
                with torch.no_grad():
                    on_unlabelled = self.decode(
                        [e[labelled:] for e in embeddings], branch, place[labelled:], label[labelled:]
                    )
            supervised.append(dice_ce_loss(on_labelled, target, self.loss.prompted_dice))
            on_known.append(on_labelled.detach().float().softmax(1))
            teachers.append(on_unlabelled.detach().float().softmax(1))
        taught_by = self.teach(teachers)
        pseudo = self.pseudo_label(taught_by)
        self.log(f"train/confidence_{branch + 1}", confidence(taught_by))
        # What such pseudo labels are worth can be told where the truth is known.
        self.log(f"train/pseudo_dsc_{branch + 1}", agreement(likeliest(self.teach(on_known)), target))
        consistency = [dice_ce_loss(output, pseudo, 0.5) for output in taught]
        return Terms(
            torch.stack(supervised).sum(),
            dice_ce_loss(student, pseudo, 0.5),
            torch.stack(consistency).sum() if consistency else unprompted.new_zeros(()),
        )

    def student(self, embeddings: Sequence[Tensor], unprompted: Tensor, branch: int, labelled: int) -> Tensor:
        """The other branch's unprompted output on unlabelled images, which the pseudo label teaches."""
        if not self.feature_dropout:
            return unprompted[labelled:]
        dropped = [F.dropout2d(embedding[labelled:], self.feature_dropout) for embedding in embeddings]
        return self.decode(dropped, self.other(branch))

    def start_points(
        self, guesses: Sequence[Tensor], branches: Sequence[int], target: Tensor
    ) -> Callable[[int], ClassPoints]:
        """Begin to choose what branches are prompted by, for all of them at once.

        Args:
            guesses: For each branch the label maps ``(B, S, S)`` of the other one, the L labelled images first.
            branches: The branches that are prompted.
            target: int64 ``(L, S, S)``.

        Returns:
            A function that waits for the points of a branch.
        """
        labelled, unlabelled = len(target), len(guesses[0]) - len(target)
        rngs = [rng for branch in branches for rng in self.prompt_rngs(branch, labelled, unlabelled)]
        chosen = self.choose_points(torch.cat(list(guesses)), rngs)
        return lambda branch: chosen().split(len(branches))[branches.index(branch)]

    def choose_points(self, labels: Tensor, rngs: list[np.random.Generator]) -> Callable[[], ClassPoints]:
        """Prompts from label maps ``(B, S, S)`` by this method's rules (sections 2.2 and 2.3), once they are chosen."""
        return start_class_points(labels, self.num_classes + 1, rngs, self.prompts)

    def teach(self, teachers: Sequence[Tensor]) -> Tensor:
        """Probabilities of the pseudo label from those of the prompted outputs, the centre's first."""
        return torch.stack(list(teachers)).mean(0) if self.ensemble else teachers[0]

    def pseudo_label(self, probabilities: Tensor) -> Tensor:
        """What :func:`dice_ce_loss` takes for a target: class ids ``(B, S, S)``, or the probabilities as they are."""
        if self.pseudo == "soft":
            return probabilities
        label = likeliest(probabilities)
        return label.masked_fill(probabilities.amax(1) < self.min_confidence, IGNORED) if self.min_confidence else label

    def weighted(self, terms: Terms, branch: int) -> Tensor:
        """One direction's share of the total loss."""
        self.log_dict({f"train/{name}_{branch + 1}": value.detach() for name, value in terms._asdict().items()})
        loss = self.loss
        ramp = (
            sigmoid_ramp(self.global_step - self.ssl_start, loss.lambda_ramp_iters) if loss.lambda_ramp_iters else 1.0
        )
        return terms.prompted + ramp * (loss.lambda_cross * terms.cross + loss.lambda_consistency * terms.consistency)

    def other(self, branch: int) -> int:
        """The branch that prompts this one; with one branch, itself."""
        return self.branches[-1 - branch]

    def encode(self, images: Tensor) -> list[Tensor]:
        """The embedding each branch decodes from: one tensor for all, or one per model."""
        shared = self.sam.encode(images)
        return [shared, shared] if self.second_sam is None else [shared, self.second_sam.encode(images)]

    def decode(
        self,
        embeddings: Sequence[Tensor],
        branch: int,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        train_prompt: bool = True,
    ) -> Tensor:
        """Logits ``(B, K, S, S)`` of one branch."""
        if self.second_sam is not None and branch == 1:
            return self.second_sam.decode(embeddings[1], 0, points, labels, train_prompt)
        return self.sam.decode(embeddings[branch], branch, points, labels, train_prompt)

    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Mean softmax ``(B, K, S, S)`` of the unprompted branches that are evaluated."""
        in_fit = self._trainer is not None and self.trainer.validating and self.trainer.state.fn == "fit"
        chosen = self.select_branch if in_fit else self.branch
        branches = self.branches if chosen == "ensemble" else (min(int(chosen) - 1, self.branches[-1]),)
        embeddings = self.encode(image)
        return torch.stack([self.decode(embeddings, branch).float().softmax(1) for branch in branches]).mean(0)

    def panels(self, image: Tensor, case: Case) -> list[Panel]:
        """Each unprompted branch's answer, with the points that it prompts the other branch by."""
        embeddings, shown = self.encode(image), []
        for branch in self.branches:
            labels = likeliest(self.decode(embeddings, branch))
            marks: tuple[Marks, ...] = ()
            if self.cross == "prompted":
                points = self.choose_points(labels, [np.random.default_rng((self.seed, branch))])()
                marks = (Marks(points.center[0], points.center_labels[0], "cross"),)
                marks += (Marks(points.random[0], points.random_labels[0], "disc"),)
            shown.append(Panel(f"branch {branch + 1}, its points", labels[0], marks))
        return shown

    @property
    def ssl_active(self) -> bool:
        """Whether this iteration uses prompts and unlabelled images."""
        return self.uses_unlabelled and self.global_step >= self.ssl_start

    @property
    def ssl_start(self) -> int:
        """First iteration with prompts and unlabelled images."""
        return self.trainer.max_steps // 6 if self.ssl_start_iter is None else self.ssl_start_iter

    def to_mid_run(self) -> None:
        """Use prompts and unlabelled images from the first iteration on."""
        self.ssl_start_iter = 0

    def prompt_rngs(self, branch: int, labelled: int, unlabelled: int) -> list[np.random.Generator]:
        """A generator per image for this iteration's draws, keyed by counters alone.

        A resumed run draws the same points, and so do two ranks and one process with the whole batch.
        """
        places = [(half, self.global_rank * n + i) for half, n in enumerate((labelled, unlabelled)) for i in range(n)]
        return [np.random.default_rng((self.seed, self.global_step, branch, *place)) for place in places]

    def optimize(self, loss: Tensor, last: bool, prompts_used: bool) -> Tensor:
        """One AdamW step of the sequential schedule; Lightning counts the last one of an iteration.

        The others go past its counter, but not past its precision, which knows by what the loss was scaled.

        Returns:
            ``loss``, detached.
        """
        optimizer = self.optimizers()
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.manual_backward(loss)
        if not prompts_used:
            self.forget_prompt_gradients()
        if last:
            optimizer.step()  # type: ignore[union-attr]
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, closure=lambda: None)  # type: ignore[union-attr]
        return loss.detach()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """In the joint update, leave the prompt embeddings alone, decay included, until prompts are used."""
        if self.update == "joint" and not self.ssl_active:
            self.forget_prompt_gradients()

    def prompt_parameters(self) -> list[Tensor]:
        """Parameters that only prompted passes reach."""
        return [parameter for sam in self.sams for parameter in sam.prompt_encoder.prompt_parameters()]

    def zero_of_prompts(self) -> Tensor:
        """Zero, made from the prompt embeddings: DDP wants every trained parameter in every backward pass."""
        return 0.0 * torch.stack([parameter.sum() for parameter in self.prompt_parameters()]).sum()

    def forget_prompt_gradients(self) -> None:
        """Drop those zeros again: a parameter without a gradient is not decayed either."""
        for parameter in self.prompt_parameters():
            parameter.grad = None

"""Stage 1: train the VQ-GAN.

The autoencoder learns from a reconstruction loss (L1 and LPIPS), the codebook loss and, from step
`disc_start` on, the discriminator. Axes: B images of a step, C channels, H W pixels, h w token
grid, N = B * h * w encoder outputs, D width of a code, K codes.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.codes import codebook_usage, count_codes
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import Reconstruction, VQModel
from training.codebook import CodebookCare
from training.config import VQGANTrainingConfig
from training.ema import EMA
from training.learning_rate import LearningRate
from training.optimizer import freeze, make_optimizers, step_unless
from training.stage import Stage
from training.vqgan_losses import Backward, Objective
from utils.checkpoint import check_weights
from utils.device import autocast, send
from utils.errors import FieldError
from utils.pictures import save_grid, to_uint8
from utils.seeding import derive_seed, rng

PREVIEW_IMAGES = 8
LEAST_CHANNELS = 8  # of a convolution that Muon trains; it is not for the colors of an image
CODES = "quantize.embedding.weight"  # name of the codebook
OF_DISCRIMINATOR = "discriminator_optimizer"  # name of its optimizer


class VQGANStage(Stage):
    """The VQ-GAN, its losses, its optimizers and its data.

    Attributes:
        model: the network with the raw weights.
        ema: their moving average, for validation, previews and checkpoints.
        objective: the losses on images, with the discriminator.
        optimizers: "optimizer", AdamW of the autoencoder, or of what "muon" does not train; "muon",
            Muon of the autoencoder's convolutions; "discriminator_optimizer", AdamW of the
            discriminator.
        learning_rate: the learning rate of each step, for all optimizers.
    """

    name = kind = "vqgan"
    previews_are_generated = False  # they show validation images
    training: VQGANTrainingConfig

    def __init__(
        self,
        config: VQGANConfig,
        training: VQGANTrainingConfig,
        batches: Callable[[int, int], Iterator[Tensor]],
        validation: Callable[[], Iterator[Tensor]],
        steps_per_epoch: int,
        *,
        device: torch.device,
        precision: torch.dtype,
        checkpoint_entries: Mapping[str, Any],
        start: Mapping[str, Tensor] | None = None,
        compile_model: bool = False,
    ) -> None:
        """Build the models with the run's seed.

        Args:
            batches: (epoch, index of a batch) -> the epoch's batches from that one on, float
                (B, C, H, W) in [-1, 1].
            validation: yields all validation images in such batches.
            precision: dtype of convolutions and matrix products; the quantizer is always float32.
            checkpoint_entries: what else a checkpoint holds: dataset, class names.
            start: weights by name that replace the random ones; None for random weights. A
                codebook among them stays as it is at the first step.
            compile_model: whether the model runs through torch.compile.

        Raises:
            UserError: if `freeze` matches nothing or too much; or if the VGG weights for the
                perceptual loss cannot be read or downloaded.
        """
        # Data and settings.
        self.config, self.training = config, training
        self.steps_per_epoch = steps_per_epoch
        self.learning_rate = LearningRate(
            training.lr, training.epochs, training.warmup_epochs, self.steps_per_epoch
        )
        self.device, self.precision = device, precision
        self._checkpoint_entries = checkpoint_entries
        self._batches, self._validation = batches, validation
        self._current: Iterator[Tensor] = iter(())
        self._next_step = -1  # the step that the next batch of _current belongs to
        # The networks and their optimizers.
        torch.manual_seed(derive_seed(training.seed, "vqgan weights"))
        self.model = self._make_model(start or {})
        self.objective = Objective(config, training, device)
        self.ema = EMA(self.model, training.ema_decay)
        self.optimizers = self._make_optimizers()
        self.networks = {"model": self.model, "ema": self.ema.module}
        if self.objective.discriminator is not None:
            self.networks["discriminator"] = self.objective.discriminator
        quantizers = (self.model.quantize, self.ema.module.quantize)
        of_codes = self.optimizers["optimizer"]
        self.codebook = CodebookCare(*quantizers, of_codes, training.revive_below)
        self._has_codes = self.codebook.is_frozen or (start is not None and CODES in start)
        if compile_model:
            self.model.compile_networks()

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Make a step of the autoencoder and, from `disc_start` on, of the discriminator.

        Returns:
            Scalars on the device: "loss" (the autoencoder's total), "l1", "perceptual" and
            "codebook"; with the discriminator also "generator", "discriminator" and
            "adaptive_weight"; and "skipped", 1 if a loss or gradient was not finite, so that the
            weights are unchanged.
        """
        # Read the batch.
        self.model.train()
        images = self._images(step)
        # Seed after reading the batch: a data loader draws from this generator when it starts.
        torch.manual_seed(derive_seed(self.training.seed, "vqgan dropout", step))
        if step == 0 and not self._has_codes:
            self._initialize_codebook(images)
        # Compute the gradients and make the step.
        metrics, latents, tokens = self._accumulate_gradients(images, self._is_adversarial(step))
        finite = self._update(step, metrics)
        # Keep the codes in use.
        self.codebook.count(tokens)
        every = self.training.revive_every
        if every and (step + 1) % every == 0:
            generator = rng(self.training.seed, "revive", step)
            self.codebook.revive(_flat(latents), tokens.flatten(), generator, allowed=finite)
        return {**metrics, "skipped": (~finite).float()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on all validation images.

        Returns:
            "loss" (L1 and LPIPS, weighted as in training), "l1" in units of [-1, 1], "psnr" in dB
            (of the mean squared error over all images), "codebook_usage" in [0, 1] and
            "codebook_perplexity" in [1, K].
        """
        # Add up over all batches.
        counts = torch.zeros(self.config.codebook_size, device=self.device)
        sums = torch.zeros(4, device=self.device)  # images, L1, squared error, LPIPS
        for batch in self._validation():
            images, output = self._reconstruct(batch)
            shown = output.images.clamp(-1, 1)
            l1, squared_error = F.l1_loss(shown, images), F.mse_loss(shown, images)
            distance = self.objective.distance(shown, images)
            sums += len(images) * torch.stack([torch.ones_like(l1), l1, squared_error, distance])
            counts += count_codes(output.tokens, len(counts))
        # Divide by the number of images.
        count, l1_sum, squared_sum, distance_sum = sums.cpu().double().unbind()
        usage, perplexity = codebook_usage(counts)
        return {
            "loss": ((l1_sum + self.training.perceptual_weight * distance_sum) / count).item(),
            "l1": (l1_sum / count).item(),
            "psnr": (10 * torch.log10(4 * count / squared_sum)).item(),  # 4: range 2, squared
            "codebook_usage": usage,
            "codebook_perplexity": perplexity,
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Write a grid of validation images above their reconstructions by the averaged weights."""
        images, output = self._reconstruct(next(self._validation())[:PREVIEW_IMAGES])
        both = self.model.to_rgb(torch.cat([images, output.images]))
        save_grid(path, to_uint8(both), columns=len(images))

    def checkpoint(self, step: int) -> dict[str, Any]:
        """Return the contents of a checkpoint: the averaged weights as a tokenizer, and more."""
        tokenizer = Tokenizer(self.ema.module).entry()
        return {**self._checkpoint_entries, "step": step, "tokenizer": tokenizer}

    def state_dict(self) -> dict[str, Any]:
        """Return what `Stage` does, and how often the codes are used."""
        return {**super().state_dict(), "codebook_usage": self.codebook.usage}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; ValueError if it does not fit."""
        super().load_state_dict(state)
        check_weights({"usage": self.codebook.usage}, {"usage": state["codebook_usage"]})
        self.codebook.usage.copy_(state["codebook_usage"])
        self._next_step = -1

    def _make_model(self, start: Mapping[str, Tensor]) -> VQModel:
        """Make the VQ-GAN that is trained, with the weights that it starts from."""
        model = VQModel(self.config).to(self.device).to(memory_format=torch.channels_last)
        if self.training.linear_start:
            model.start_linear()
        model.load_state_dict(start, strict=False)
        freeze_vqgan(model, self.training)
        return model

    def _make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Make the optimizers of all weights that are not frozen."""
        training = self.training
        convolutions = {
            layer.weight: 1
            for layer in self.model.modules()
            if isinstance(layer, nn.Conv2d) and min(layer.weight.shape[:2]) >= LEAST_CHANNELS
        }
        # Without weight decay an AdamW alone keeps all weights in one group, in their order.
        matrices = convolutions if training.optimizer == "muon" else {}
        made = make_optimizers(self.model, matrices, training, self.precision)
        if self.objective.discriminator is not None:
            made[OF_DISCRIMINATOR] = torch.optim.AdamW(
                self.objective.discriminator.parameters(),
                training.lr,
                training.betas,
                weight_decay=0,
                fused=True,
            )
        return made

    def _is_adversarial(self, step: int) -> bool:
        """Whether a step uses the discriminator."""
        return OF_DISCRIMINATOR in self.optimizers and step >= self.training.disc_start

    def _images(self, step: int) -> Tensor:
        """Read the batch of a step; reading restarts at each epoch and after a jump."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if index == 0 or step != self._next_step:
            self._current = self._batches(epoch, index)
        self._next_step = step + 1
        return self._to_device(next(self._current))

    def _to_device(self, images: Tensor) -> Tensor:
        """Copy images to the device, channels last."""
        images = send(images, self.device)
        return images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _initialize_codebook(self, images: Tensor) -> None:
        """Place the codes on encoder outputs of the first batch."""
        with autocast(self.device, self.precision):
            # Before the first step the averaged weights are the raw ones.
            latents = self.ema.module.latents(images)
        self.codebook.initialize(_flat(latents), rng(self.training.seed, "codebook"))

    def _reconstruct(self, batch: Tensor) -> tuple[Tensor, Reconstruction]:
        """Return a batch on the device, and its reconstruction by the averaged weights."""
        images = self._to_device(batch)
        with autocast(self.device, self.precision):
            return images, self.ema.module(images)

    def _accumulate_gradients(
        self, images: Tensor, adversarial: bool
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Compute the gradients of a step, the batch in `grad_accum` parts.

        Returns:
            Metrics of the whole batch, encoder outputs (B, D, h, w) and tokens (B, h, w).
        """
        parts = images.chunk(self.training.grad_accum)
        backward = Backward(self.model, self.training, accumulate=len(parts) > 1)
        latents, tokens = [], []
        for part in parts:
            share = len(part) / len(images)
            with autocast(self.device, self.precision):
                output = self.model(part)
                feedback = self.objective.judge(part, output.images, share, adversarial)
            backward.add(output, feedback, share)
            latents.append(output.latents.detach())
            tokens.append(output.tokens)
        return backward.finish(), torch.cat(latents), torch.cat(tokens)

    def _update(self, step: int, metrics: Mapping[str, Tensor]) -> Tensor:
        """Step both optimizers and update the average.

        Returns:
            bool scalar, whether losses and gradients are finite; if not, no weight has changed.
        """
        optimizers = [
            optimizer
            for name, optimizer in self.optimizers.items()
            if name != OF_DISCRIMINATOR or "discriminator" in metrics
        ]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        total = nn.utils.get_total_norm(gradients) + sum(metrics.values())
        finite = total.isfinite()
        skip = (~finite).float()
        for optimizer in optimizers:
            step_unless(skip, optimizer, self.learning_rate(step))
        self.ema.update(step)
        return finite


def freeze_vqgan(model: VQModel, training: VQGANTrainingConfig) -> None:
    """Freeze the parameters of a VQ-GAN that `freeze` names; errors as in `freeze`.

    Raises:
        FieldError: also if the adversarial loss needs the gradient of a frozen layer.
    """
    freeze(model, training.freeze, "VQGANTrainingConfig.freeze")
    if training.disc_weight and not model.decoder.conv_out.weight.requires_grad:
        reason = (
            "the discriminator needs the decoder's last layer, decoder.conv_out, trained; use 0"
        )
        raise FieldError("disc_weight", training.disc_weight, reason)


def _flat(latents: Tensor) -> Tensor:
    """Flatten encoder outputs (B, D, h, w) of any precision to float32 (N, D)."""
    return latents.float().permute(0, 2, 3, 1).flatten(0, 2)

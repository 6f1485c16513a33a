"""The blocks of a recipe that say how to train; what to train on is in `data_settings`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Settings(BaseModel):
    """Base of every block: frozen, no unknown keys, each field with a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RouterSettings(Settings):
    """The router of each layer and how it is trained."""

    pool: int = Field(100, ge=1, description="tokens the router averages at each end of the prompt")
    features: Literal["query", "hidden", "auto"] = Field(
        "auto", description="what it reads: query states before RoPE, or hidden states; auto: query where possible"
    )
    initializer_range: float | None = Field(
        0.02, gt=0, description="standard deviation of the initial weights; null: 2 / sqrt(inputs), for narrow routers"
    )
    gates: Literal["hard", "soft"] = Field("hard", description="straight-through hard gates, or soft ones")
    temperature_start: float = Field(1.5, gt=0, description="Gumbel-softmax temperature at the first step")
    temperature_end: float = Field(1.0, gt=0, description="temperature after `temperature_share` of the steps")
    temperature_share: float = Field(0.6, ge=0, le=1, description="share of the steps over which it falls (cosine)")
    learning_rate: float = Field(5e-4, gt=0, description="of the routers")
    multiplier_learning_rate: float = Field(1e-3, ge=0, description="of the Lagrange multipliers of the targets")
    multiplier_init: tuple[float, float] = Field((0.0, 0.5), description="multipliers start uniform in this range")
    weight_decay: float = Field(0.1, ge=0, description="of routers and multipliers")
    logit_penalty: float = Field(0.0, ge=0, description="weight of the mean squared router logit in the loss")

    @field_validator("multiplier_init")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1]:
            raise ValueError("must be [low, high] with 0 <= low <= high")
        return value


class LoraSettings(Settings):
    """A LoRA adapter on the model, by peft; its names."""

    r: int = Field(16, ge=1, description="rank")
    lora_alpha: float = Field(32, gt=0, description="scale: alpha / r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    target_modules: list[str] | str = Field(
        "all-linear", description="names of the modules to adapt, or peft's 'all-linear'"
    )
    learning_rate: float = Field(1e-4, gt=0, description="of the adapter")
    weight_decay: float = Field(0.0, ge=0, description="of the adapter")

    @field_validator("target_modules")
    @classmethod
    def _some(cls, value: list[str] | str) -> list[str] | str:
        if not value:
            raise ValueError("must name at least one module, or be 'all-linear'")
        return value


class TrainingSettings(Settings):
    """The run; names as in transformers' TrainingArguments."""

    output_dir: str = Field(min_length=1, description="folder for checkpoints, log and results")
    max_steps: int = Field(ge=1, description="optimiser steps")
    warmup_ratio: float = Field(0.2, ge=0, lt=1, description="share of the steps that warm the learning rate up")
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="how the learning rate falls"
    )
    max_grad_norm: float = Field(5.0, gt=0, description="gradients are clipped to this norm")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="of AdamW")
    adam_beta2: float = Field(0.95, ge=0, lt=1, description="of AdamW")
    bf16: bool = Field(False, description="bfloat16 autocast")
    gradient_checkpointing: bool = Field(False, description="recompute activations to save memory")
    logging_steps: int = Field(1, ge=1, description="steps between log lines")
    save_steps: int = Field(50, ge=1, description="steps between checkpoints")
    save_total_limit: int | None = Field(2, ge=1, description="checkpoints kept; null: all")
    seed: int = Field(0, ge=0, description="of the parameters and the gate noise")
    report_to: Literal["none", "wandb", "trackio", "tensorboard"] = Field("none", description="where to log to")
    loss_on: Literal["all", "answers"] = Field(
        "all", description="every token of a sample, or the answers only (sandbox: tokens of full weight)"
    )


class EvaluationSettings(Settings):
    """What is measured at the end, beside full attention and the trained parameters."""

    tasks: list[str] = Field(min_length=1, description="names as in attnpatch-eval --tasks")
    lengths: list[int] = Field(min_length=1, description="tokens")
    limit: int = Field(32, ge=1, description="documents per task and length")
    baselines: list[Literal["full", "sparse", "random", "entropy", "calibrate", "majority"]] = Field(
        [], description="plans without training that a router must beat"
    )

    @field_validator("lengths")
    @classmethod
    def _positive(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError("lengths must be positive")
        return value

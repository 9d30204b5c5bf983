"""What a recipe says of training: its [train] table.

Recipes are checked against it before anything is trained, so nothing here loads a deep-learning framework.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Tracker", "TrainOptions"]

Tracker = Literal["tensorboard", "wandb"]
"""Where a copy of the metrics may go; each is a package that must be installed."""


class TrainOptions(BaseModel):
    """The recipe's [train] table: how long, how fast, how exactly, and how often to report."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(
        default=1000,
        ge=1,
        le=1_000_000_000,
        description="Updates of the weights, over all stages; where a recipe does not say, `manyseg train` chooses.",
    )
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="sgd is with momentum.")
    lr: float = Field(default=1e-3, gt=0, description="Peak learning rate of new layers; SGD wants about 0.01.")
    backbone_lr_factor: float = Field(
        default=0.3, ge=0, description="The trunk's learning rate as a multiple of lr; 0 trains nothing of it."
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="The trunk's last layer has this factor on its learning rate, the one before it its square, ...",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="Not on norms, biases and other vectors.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of SGD; the first beta of AdamW.")
    mean: Literal["dataset", "batch", "image"] | None = Field(
        default=None,
        description="What a step's loss is a mean over. dataset: the sum of one mean a dataset: all weigh alike; "
        "batch: one mean over the labelled pixels of all; image: datasets weigh as their images do. By default the "
        "method's own: batch for uniseg, image for lmseg, else dataset.",
    )
    nesterov: bool = Field(default=True, description="Nesterov's momentum, of SGD; false is the plain one.")
    warmup: int = Field(default=50, ge=0, description="Steps of linear rise to lr; at most half of all steps.")
    before: int = Field(default=0, ge=0, description="Steps of the same schedule that earlier stages took; lr goes on.")
    after: int = Field(default=0, ge=0, description="Steps of the same schedule that are left to later stages.")
    power: float = Field(default=0.9, ge=0, description="lr falls as (1 - step / steps) ^ power; 0 keeps it.")
    drops: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(),
        description="Parts of the schedule after which lr is multiplied by `drop_factor`, beside the fall by `power`; "
        "with power = 0 lr falls in steps alone.",
    )
    drop_factor: float = Field(default=0.1, gt=0, le=1, description="See `drops`.")
    clip: float = Field(default=5.0, ge=0, description="Largest norm of the gradient of all weights; 0 sets no limit.")
    accumulate: int = Field(default=1, ge=1, le=1024, description="Draws of the mixture that one update averages.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="Of activations; fp16 needs a GPU. Where a recipe does not say, a GPU that has bf16 takes it.",
    )
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="Decay of an average of the weights, which is evaluated; 0 has none."
    )
    channels_last: bool = Field(default=True, description="Memory order of images; 2.2 times faster on a CPU.")
    compile: bool = Field(default=False, description="torch.compile the network; slow to start, needs a C compiler.")
    shard: bool = Field(
        default=False,
        description="Divide the trunk's weights, gradients and optimizer state among processes (FSDP): less memory, "
        "more messages. The files of a run are the same.",
    )
    deterministic: bool = Field(default=False, description="Deterministic GPU kernels where there are any; slower.")
    log_every: int = Field(default=10, ge=1, description="Steps to a line of metrics.jsonl, a mean over them.")
    eval_every: int = Field(default=0, ge=0, description="Steps to an evaluation; 0 evaluates at the end only.")
    checkpoint_every: int = Field(
        default=500, ge=1, description="Steps to a checkpoint; there is one before every evaluation and at the end too."
    )
    checkpoint_minutes: float = Field(
        default=10.0, ge=0, description="Minutes to a checkpoint, whatever the steps; 0 saves by steps alone."
    )
    track: tuple[Tracker, ...] = Field(default=(), description='Copies of the log: "tensorboard", "wandb".')

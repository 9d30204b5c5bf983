"""What a method, or a recipe, says of the stages of a run; it loads no deep-learning framework."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Schedule", "StagePlan"]


class StagePlan(BaseModel):
    """A stage of a run, as a recipe's [[stage]] table or a method's `default_stages` describes it.

    It starts from the weights that the stage before it ended with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w-]+$", description="Name of the stage, and of its folder in the run.")
    steps: int = Field(ge=1, description="Its share of train.steps, in proportion to the other stages' steps.")
    method: dict[str, Any] = Field(
        default={}, description="Options over those of [method]; with another name, that method and its options."
    )
    train: dict[str, Any] = Field(default={}, description="Keys over those of [train].")


class Schedule(Protocol):
    """What a method may read of the recipe's [train] table to divide it into stages; see `training.options`."""

    @property
    def steps(self) -> int:
        """Updates of the weights, over all stages."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""

    @property
    def warmup(self) -> int:
        """Steps in which the learning rate rises."""

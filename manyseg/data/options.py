"""What a recipe says of its data: the datasets, how they are mixed, and how their images are varied.

Recipes are checked against these tables before any image is opened, so nothing here loads a deep-learning framework.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from manyseg.data.card import Card, builtin_cards, read_card
from manyseg.data.hub_sets import local_root
from manyseg.data.packed import pack_of
from manyseg.data.stores import url_of
from manyseg.errors import UserError

if TYPE_CHECKING:
    from manyseg.data.folder import Folder

__all__ = ["AugmentOptions", "DataOptions", "DatasetOptions", "Jitter", "SetOptions"]


LARGEST = 1 << 14
"""Pixels of the side of a crop, at most."""

Side = Annotated[int, Field(ge=1, le=LARGEST)]
Zoom = Annotated[float, Field(gt=0.001, le=100)]
Sigma = Annotated[float, Field(gt=0, le=100)]


class Jitter(BaseModel):
    """Strengths of the colour jitter; 0 leaves that quality alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    brightness: float = Field(default=0.25, ge=0, le=1, description="Brightness is multiplied by 1 - this to 1 + this.")
    contrast: float = Field(default=0.25, ge=0, le=1, description="Contrast about mid-grey is multiplied likewise.")
    saturation: float = Field(default=0.25, ge=0, le=1, description="Saturation is multiplied likewise.")
    hue: float = Field(
        default=0.02, ge=0, le=0.5, description="Hue is turned by up to this part of a full turn, either way."
    )


class AugmentOptions(BaseModel):
    """How training images are chosen and varied; the same keys are common to all datasets or a dataset's own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    class_temperature: float = Field(
        default=1.0,
        ge=1,
        description="Images are drawn for their classes, these by pixels^(1 / this): 1 takes every image once an "
        "epoch, larger values show rare classes more often. Above 1 labels are counted once, and the counts kept.",
    )
    crop: tuple[Side, Side] = Field(
        default=(512, 512),
        description="Height and width in pixels of what the network sees; one number is a square. Where a recipe does "
        "not say, `manyseg train` chooses.",
    )
    scale: tuple[Zoom, Zoom] = Field(default=(0.5, 2.0), description="Range of the random zoom; uniform.")
    short_side: int | None = Field(
        default=None,
        gt=0,
        le=LARGEST,
        description="Zoom 1 makes the shorter side this many pixels; without it, zoom 1 is native size.",
    )
    max_share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="A crop is drawn again while one class has more than this share of its labels.",
    )
    rotate: float = Field(
        default=0.0,
        ge=0,
        le=180,
        description="A crop is turned by up to so many degrees, either way; what its corners then show has no label.",
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="Chance of a left-right flip.")
    jitter: Jitter = Field(default=Jitter(), description="Strengths of the colour jitter.")
    blur: float = Field(default=0.0, ge=0, le=1, description="Chance of a Gaussian blur.")
    blur_sigma: tuple[Sigma, Sigma] = Field(
        default=(0.1, 2.0), description="Range of the blur's sigma in pixels of the crop."
    )

    @field_validator("crop", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check_ranges(self) -> AugmentOptions:
        for name in ("scale", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is {[low, high]}; give two positive numbers, the smaller first")
        return self

    def summary(self) -> str:
        """Say in one line what is done to an image, for printing before training."""
        jitter = " ".join(f"{name} {value:g}" for name, value in self.jitter if value)
        parts = [
            f"class temperature {self.class_temperature:g}" if self.class_temperature > 1 else "",
            f"scale {self.scale[0]:g}-{self.scale[1]:g}" + (f" of {self.short_side} px" if self.short_side else ""),
            f"max share {self.max_share:g}" if self.max_share < 1 else "",
            f"rotate {self.rotate:g}" if self.rotate else "",
            f"flip {self.flip:g}" if self.flip else "",
            f"jitter {jitter}" if jitter else "",
            f"blur {self.blur:g}" if self.blur else "",
        ]
        return ", ".join(p for p in parts if p)


class DatasetOptions(BaseModel):
    """A dataset on disk, as it is evaluated; paths are relative to the recipe's file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    card: str = Field(description="Name of a built-in card, or path or address of a card.")
    root: str = Field(
        description="The folder that the card's patterns are relative to, plain or packed; or an address, as "
        "`s3://bucket/street` of a packed one, or `hf://datasets/user/name`."
    )
    eval_split: str = Field(default="val", description="Split that is evaluated.")
    merge: dict[str, tuple[str, ...]] = Field(
        default={},
        description="Classes that are joined, new name = [names of classes], after the card's own `merge`.",
    )
    drop: tuple[str, ...] = Field(default=(), description="Classes whose pixels have no label here.")

    def read_card(self, base: Path) -> Card:
        """Read the card, and join and drop its classes; relative paths start from `base`, the recipe's folder."""
        return read_card(self.card_place(base)).relabelled(self.merge, self.drop)

    def card_place(self, base: Path) -> str | Path:
        """Return the card as `manyseg.data.read_card` takes it."""
        return self.card if self.card in builtin_cards() or url_of(self.card) is not None else base / self.card

    def open(self, base: Path, split: str, annotation: str = "native") -> Folder:
        """Open a split; `base` is the recipe's folder, that relative paths start from."""
        from manyseg.data.folder import Folder

        card = self.read_card(base)
        root = local_root(self.root, base)
        if pack_of(root) is None and not root.is_dir():
            raise UserError(
                f"{root}: there is no such folder for dataset '{card.name}'; correct its root, or say where "
                "all datasets are: --data-root DIR, or the environment variable MANYSEG_DATA"
            )
        return Folder(card, root, split, annotation)

    def open_eval(self, base: Path) -> Folder:
        """Open the split that is evaluated, with all that its files say."""
        return self.open(base, self.eval_split)


class SetOptions(DatasetOptions, AugmentOptions):
    """A training dataset; an augmentation key given here replaces the common one for this dataset."""

    per_step: int | None = Field(
        default=None,
        gt=0,
        le=1 << 14,
        description='Images of a step, over all processes, with mix = "per_step"; where no set has it, `manyseg train` '
        "chooses. Where processes cannot share each set's evenly, but their sum, sets take turns: it is a mean then.",
    )
    split: str = Field(default="train", description="Split that is trained on.")
    annotation: Literal["native", "dense", "segments", "boxes", "tags"] = Field(
        default="native", description="Kind of annotation to train on, weakened from what the files hold."
    )
    images: int | None = Field(
        default=None, gt=0, description="Train on so many of the split's images alone, drawn once, fewer among more."
    )
    weight: float = Field(default=1.0, ge=0, description="Multiplies this dataset's losses.")
    statistics_split: str | None = Field(
        default=None,
        description="Split whose labels the statistics between stages read; by default the images that are trained on. "
        "Of eval_split they would have seen the labels that are scored.",
    )

    def open_train(self, base: Path) -> Folder:
        """Open the split that is trained on, or as many of its images as asked, weakened as asked."""
        folder = self.open(base, self.split, self.annotation)
        return folder if self.images is None else folder.drawn(self.images)

    def open_statistics(self, base: Path) -> Folder:
        """Open the split that statistics between stages are collected on, with all that its files say."""
        folder = self.open(base, self.statistics_split or self.split)
        return folder if self.statistics_split or self.images is None else folder.drawn(self.images)

    @property
    def own(self) -> dict[str, Any]:
        """The augmentation keys that this dataset has of its own."""
        return {k: getattr(self, k) for k in AugmentOptions.model_fields if k in self.model_fields_set}

    @model_serializer(mode="wrap")
    def _only_own(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A default written out would, read back, replace the common value.
        own = self.own
        return {k: v for k, v in handler(self).items() if k not in AugmentOptions.model_fields or k in own}


class DataOptions(AugmentOptions):
    """The recipe's [data] table: the datasets, how they are mixed, and the common augmentation.

    `root` is put before the datasets' relative roots when the table is read, and is "." from then on.
    """

    root: str = Field(
        default=".",
        description="The folder that relative roots of datasets start from, itself relative to the recipe's file. "
        "--data-root replaces it; the environment variable MANYSEG_DATA stands in where the recipe does not give it.",
    )
    sets: tuple[SetOptions, ...] = Field(min_length=1, description="The datasets that are trained on.")
    unseen: tuple[DatasetOptions, ...] = Field(default=(), description="Datasets that are evaluated only.")
    mix: Literal["per_step", "proportional", "sqrt", "temperature"] = Field(
        default="per_step",
        description="per_step: exact numbers; else `batch` images are shared out by size^(1 / temperature), where "
        "proportional is temperature 1 and sqrt is 2.",
    )
    batch: int | None = Field(
        default=None, gt=0, le=1 << 16, description="Images of a step in all, unless mix is per_step."
    )
    temperature: float | None = Field(default=None, ge=1, description='For mix = "temperature"; larger is more even.')
    workers: int = Field(default=2, ge=0, le=256, description="Processes that read images; 0 reads in the main one.")
    on_bad_file: Literal["error", "skip"] = Field(
        default="error",
        description="skip: report an unreadable file, and train on the dataset's next one instead; an evaluation "
        "leaves it out, and its scores name it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _place_roots(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(root := data.get("root", "."), str) or root == ".":
            return data
        placed = {key: _below(root, data[key]) for key in ("sets", "unseen") if key in data}
        return {**data, **placed, "root": "."}

    @model_validator(mode="after")
    def _check_mix(self) -> DataOptions:
        counted = [s.card for s in self.sets if s.per_step is not None]
        if self.mix == "per_step":
            bare = [s.card for s in self.sets if s.per_step is None]
            if bare and counted:
                raise ValueError(f"set '{bare[0]}' has no per_step; give its images a step, or choose another mix")
            if self.batch is not None:
                raise ValueError('batch is the sum of per_step with mix = "per_step"; remove it, or choose another mix')
        elif self.batch is None:
            raise ValueError(f'mix = "{self.mix}" needs batch, the images of a step in all')
        elif counted:
            raise ValueError(f"mix = \"{self.mix}\" shares out batch, but set '{counted[0]}' has per_step; remove it")
        if (self.mix == "temperature") != (self.temperature is not None):
            raise ValueError('temperature goes with mix = "temperature", and is needed there')
        return self

    @property
    def skip_bad(self) -> bool:
        """Whether images whose files are at fault are left out."""
        return self.on_bad_file == "skip"

    def augment(self, dataset: SetOptions) -> AugmentOptions:
        """Return the augmentation of one of the sets: the common one with its own keys in place."""
        common = {k: getattr(self, k) for k in AugmentOptions.model_fields}
        return AugmentOptions(**(common | dataset.own))


def _below(root: str, entries: Any) -> Any:
    """Put `root` before the relative roots of a list of datasets; what is no such list is left for its own check."""
    if not isinstance(entries, list | tuple):
        return entries
    return [
        {**e, "root": url_of(path := (Path(root) / e["root"]).as_posix()) or path}
        if isinstance(e, dict) and isinstance(e.get("root"), str) and url_of(e["root"]) is None
        else e
        for e in entries
    ]

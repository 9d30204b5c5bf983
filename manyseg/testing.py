"""The exam that every method must pass, for the tests of this package and of plug-ins.

A test file needs two lines, with `make(pixels, spaces)` building the method:

    @pytest.mark.parametrize("check", testing.EXAM, ids=lambda check: check.__name__)
    def test_exam(check): check(make)

Each check states in its name what holds and raises AssertionError where it does not. All run on a CPU, on a toy world
in memory: noisy blocks of four colours, labelled by three datasets that disagree. What the exam cannot know, the values
that a paper's equations give, is owed by hand-computed tests.

Axes: B images, D classes, h w feature resolution.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from manyseg.data.annotation import Dense
from manyseg.data.batch import Batch
from manyseg.errors import UserError
from manyseg.labels import IGNORE, LabelSpace, Taxonomy
from manyseg.methods.base import Method
from manyseg.models import PixelEncoder

__all__ = [
    "EXAM",
    "Make",
    "accuracy",
    "exam",
    "learns_the_toy_world",
    "predict",
    "toy_batches",
    "toy_spaces",
    "toy_taxonomy",
    "train",
]

Make: TypeAlias = Callable[[PixelEncoder, Sequence[LabelSpace]], Method]

BORDER = 4
"""Cells at a border that may depend on what lies beyond it."""

# The toy world.

CONCEPTS = ("road", "sky", "car", "truck")
COLORS = ((90, 90, 90), (120, 170, 230), (200, 40, 40), (40, 160, 60))

DATASETS: dict[str, dict[str, tuple[str, ...]]] = {
    "fine": {"road": ("road",), "sky": ("sky",), "car": ("car",), "truck": ("truck",)},
    "coarse": {"vehicle": ("car", "truck"), "sky": ("sky",), "road": ("road",)},
    "partial": {"Trucks": ("truck",), "asphalt": ("road",)},
}
"""Which concepts each class of each dataset is: one is coarse, one labels half of the scene under other names."""


def toy_spaces() -> tuple[LabelSpace, ...]:
    """Return the label spaces of the toy world's three datasets."""
    return tuple(LabelSpace.of(name, classes) for name, classes in DATASETS.items())


def toy_taxonomy() -> Taxonomy:
    """Return the true taxonomy of the toy world: four nodes, one class of two of them."""
    groups = [[(d, n) for d, classes in DATASETS.items() for n, c in classes.items() if u in c] for u in CONCEPTS]
    return Taxonomy.from_groups(toy_spaces(), groups, CONCEPTS)


def toy_batches(seed: int = 0, images: int = 2, size: tuple[int, int] = (32, 32)) -> tuple[Batch, ...]:
    """Return one batch of each dataset, of other images for every seed."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_toy_batch(space, images, size, generator) for space in toy_spaces())


def _toy_batch(space: LabelSpace, images: int, size: tuple[int, int], generator: torch.Generator) -> Batch:
    concepts = _blocks(images, size, generator)
    table = torch.full((len(CONCEPTS),), IGNORE)
    for position, members in enumerate(DATASETS[space.name].values()):
        table[[CONCEPTS.index(m) for m in members]] = position
    ids = tuple(f"{space.name}/{i}" for i in range(images))
    return Batch(space, ids, _paint(concepts, generator), Dense(table[concepts]))


def _blocks(images: int, size: tuple[int, int], generator: torch.Generator) -> Int[Tensor, "B H W"]:
    """Draw blocks of 16 pixels, moved by a random step; all four concepts are in every image."""
    rows, columns = (-(-s // 16) + 1 for s in size)
    order = torch.rand(images, rows * columns, generator=generator).argsort(1) % len(CONCEPTS)
    full = order.view(images, rows, columns).repeat_interleave(16, 1).repeat_interleave(16, 2)
    y, x = torch.randint(0, 16, (2,), generator=generator).tolist()
    return full[:, y : y + size[0], x : x + size[1]]


def _paint(concepts: Int[Tensor, "B H W"], generator: torch.Generator) -> UInt8[Tensor, "B 3 H W"]:
    color = torch.tensor(COLORS, dtype=torch.float32)[concepts].movedim(-1, 1)
    return (color + 15 * torch.randn(color.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


# What the checks share.


def predict(method: Method, image: Tensor, space: LabelSpace, relation: Tensor | None = None) -> Tensor:
    """Encode images and predict them in one label space."""
    return method.predict(method.pixel_encoder(image), space, relation)


def build(make: Make, seed: int = 0) -> Method:
    """Build the method on the tiny backbone with weights that depend on the seed alone."""
    torch.manual_seed(seed)
    return make(PixelEncoder.build(backbone="tiny", pretrained=False, channels=32), toy_spaces())


def train(method: Method, steps: int, lr: float = 7e-3) -> list[float]:
    """Train on the toy world with AdamW, the rate falling from half-time on; return the total loss of every step."""
    optimizer = torch.optim.AdamW(method.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 - 2 * step / steps))
    totals = []
    method.train()
    for step in range(steps):
        method.on_step(step)
        total = torch.stack(list(method(toy_batches(step)).values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(total)
        optimizer.step()
        schedule.step()
        totals.append(total.item())
    return totals


@torch.no_grad()
def accuracy(method: Method, seed: int = 10**6) -> dict[str, float]:
    """Return the share of right pixels of each dataset in its own labels, on images that training never sees."""
    method.eval()
    out = {}
    for batch in toy_batches(seed, images=4):
        assert isinstance(batch.annotation, Dense)
        labels = batch.annotation.labels
        scores = predict(method, batch.image, batch.space)
        found = F.interpolate(scores, size=labels.shape[1:], mode="bilinear", align_corners=False).argmax(1)
        out[batch.space.name] = (found == labels)[labels != IGNORE].float().mean().item()
    return out


def _predict(method: Method, space: LabelSpace, seed: int = 1) -> Tensor:
    with torch.no_grad():
        return predict(method.eval(), toy_batches(seed)[0].image, space)


def _values(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in losses.items()}


def _assert_close(ours: dict[str, float], theirs: dict[str, float], what: str) -> None:
    assert ours.keys() == theirs.keys(), f"{what}: the losses are {sorted(ours)} and {sorted(theirs)}"
    for name, value in ours.items():
        difference = abs(value - theirs[name])
        assert difference <= 1e-4 * max(1.0, abs(value)), f"{what}: {name} is {value} and {theirs[name]}"


# The checks.


def learns_the_toy_world(make: Make, *, steps: int = 240, lr: float = 7e-3, at_least: float = 0.85) -> None:
    """Check that at least this share of pixels of unseen images is right, in every dataset's own labels."""
    method = build(make)
    totals = train(method, steps, lr)
    assert totals[-1] < totals[0], f"the loss rose from {totals[0]} to {totals[-1]}"
    for name, share in accuracy(method).items():
        assert share >= at_least, f"{share:.3f} of the pixels of '{name}' are right, {at_least} are asked for"


def losses_are_scalars_named_after_their_dataset(make: Make) -> None:
    """Check that each dataset has a finite loss `<dataset>/<loss>`."""
    losses = build(make).train()(toy_batches())
    for space in toy_spaces():
        assert any(name.startswith(f"{space.name}/") for name in losses), f"no loss is named '{space.name}/...'"
    for name, value in losses.items():
        assert value.ndim == 0, f"{name} is no scalar"
        assert value.isfinite(), f"{name} is {value.item()}"


def an_all_ignored_batch_has_a_finite_loss_with_a_graph(make: Make) -> None:
    """Check that without any labelled pixel the loss is finite, can be differentiated, and has finite gradients."""
    method = build(make).train()
    for batch in toy_batches():
        assert isinstance(batch.annotation, Dense)
        blank = batch._replace(annotation=Dense(torch.full_like(batch.annotation.labels, IGNORE)))
        total = torch.stack(list(method([blank]).values())).sum()
        assert total.isfinite(), f"the loss of an ignored batch of '{batch.space.name}' is {total.item()}"
        assert total.requires_grad, f"the loss of an ignored batch of '{batch.space.name}' has no graph"
        torch.autograd.backward(total)
    for name, parameter in method.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"


def a_gradient_reaches_every_trainable_parameter(make: Make) -> None:
    """Check that one step on all datasets moves every parameter that asks for a gradient."""
    method = build(make).train()
    method.on_step(0)
    torch.autograd.backward(torch.stack(list(method(toy_batches(images=4)).values())).sum())
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert parameter.grad.any(), f"the gradient of {name} is 0"


def the_state_restores_predictions_exactly(make: Make) -> None:
    """Check that a fresh model with a trained one's state gives identical scores and the same taxonomy."""
    method, fresh = build(make, seed=0), build(make, seed=1)
    train(method, 3)
    fresh.load_state_dict(method.state_dict())
    for space in (*toy_spaces(), method.taxonomy.unified):
        assert torch.equal(_predict(method, space), _predict(fresh, space)), f"scores in '{space.name}' differ"
    assert method.taxonomy.to_tsv() == fresh.taxonomy.to_tsv(), "the taxonomies differ"


def predicts_in_every_space(make: Make) -> None:
    """Check that scores are finite, one map a class, of one size, in each dataset's labels and the unified ones."""
    method = build(make)
    taxonomy = method.taxonomy
    assert taxonomy.spaces == toy_spaces(), "the taxonomy is not of the training datasets, in order"
    sizes = set()
    for space in (*toy_spaces(), taxonomy.unified):
        scores = _predict(method, space)
        assert scores.shape[:2] == (2, len(space)), f"scores in '{space.name}' are {tuple(scores.shape)}"
        assert scores.isfinite().all(), f"scores in '{space.name}' are not finite"
        sizes.add(scores.shape[2:])
    assert len(sizes) == 1, f"scores have the sizes {sizes}"


def an_unseen_class_without_node_scores_minus_infinity(make: Make) -> None:
    """Check that a space never trained on is read through a relation, and that classes with nodes score finitely."""
    method = build(make)
    relation = torch.zeros(3, len(method.taxonomy.unified), dtype=torch.bool)
    relation[0, 0] = relation[2, 0] = relation[2, -1] = True
    space = LabelSpace.of("unseen", ["one", "none", "two"])
    with torch.no_grad():
        scores = predict(method.eval(), toy_batches()[0].image, space, relation)
    assert scores.shape[:2] == (2, 3), f"scores are {tuple(scores.shape)}"
    assert (scores[:, 1] == -torch.inf).all(), "a class without node scores more than -inf"
    assert scores[:, [0, 2]].isfinite().all(), "a class with a node has scores that are not finite"


def an_unrelated_space_is_refused(make: Make) -> None:
    """Check that a space of no known name needs a relation, unless the method reads words."""
    method = build(make)
    space = LabelSpace.of("unseen", ["one", "two"])
    try:
        scores = _predict(method, space)
    except UserError as error:
        message = str(error)
    else:
        assert scores.shape[:2] == (2, 2), f"scores in two words are {tuple(scores.shape)}"
        return
    assert "unseen" in message, f"the message does not name the space: {message}"


def the_order_of_images_and_of_batches_changes_no_loss(make: Make) -> None:
    """Check that a loss is a mean over a set of images, and that datasets do not see each other."""
    method = build(make).eval()
    batches = toy_batches(images=3)
    turned = []
    for batch in batches:
        assert isinstance(batch.annotation, Dense)
        annotation = Dense(batch.annotation.labels.flip(0))
        turned.append(batch._replace(ids=batch.ids[::-1], image=batch.image.flip(0), annotation=annotation))
    expected = _values(method(batches))
    _assert_close(_values(method(turned)), expected, "images in reverse")
    _assert_close(_values(method(batches[::-1])), expected, "batches in reverse")


def two_batches_of_a_dataset_add_up_and_weights_multiply(make: Make) -> None:
    """Check that the losses of two batches of one dataset are added up, and that `Batch.weight` scales them.

    So it is with `mean = "dataset"`; with "image" the sum is divided by the images, each as often as it counts.
    """
    method = build(make).eval()
    method.mean = "dataset"
    one, two = toy_batches(0)[0], toy_batches(1)[0]
    own = f"{one.space.name}/"
    single = [_values(method([b])) for b in (one, two)]
    expected = {n: v + (2 * single[1][n] if n.startswith(own) else 0) for n, v in single[0].items()}
    _assert_close(_values(method([one, two._replace(weight=2.0)])), expected, "a batch, and another of weight 2")
    method.mean = "image"
    shares = {n: v / 3 if n.startswith(own) else v for n, v in expected.items()}
    _assert_close(_values(method([one, two._replace(weight=2.0)])), shares, "a mean over images, of weights 1 and 2")


def predictions_repeat_and_do_not_depend_on_the_rest_of_the_batch(make: Make) -> None:
    """Check that in eval mode an image has the same scores every time and in any company."""
    method = build(make)
    train(method, 2)
    image, space = toy_batches(images=3)[0].image, toy_spaces()[0]
    method.eval()
    with torch.no_grad():
        first, second = (predict(method, image, space) for _ in range(2))
        alone = predict(method, image[1:2], space)
    assert torch.equal(first, second), "the same images have other scores the second time"
    assert torch.allclose(first[1:2], alone, atol=1e-4), "an image alone has other scores than in a batch"


def images_of_any_size_are_taken(make: Make) -> None:
    """Check that datasets of one step may differ in size, and that no size must be divisible by anything.

    An image has the scores that it has as a corner of one of whole cells whose other pixels are of the mean colour, but
    for the last cells, where a method's own convolutions may see what lies beyond.
    """
    method = build(make).train()
    a, b, _ = toy_batches(size=(35, 50))
    c = toy_batches(size=(40, 33))[2]
    assert all(v.isfinite() for v in method([a, b, c]).values()), "a loss is not finite"
    with torch.no_grad():
        scores = predict(method.eval(), a.image, a.space)
    assert scores.shape[:2] == (2, len(a.space)), f"scores are {tuple(scores.shape)}"
    encoder, (height, width) = method.pixel_encoder, a.image.shape[-2:]
    rows, columns = (side + -side % encoder.backbone.multiple for side in (height, width))
    whole = encoder.mean.expand(2, 3, rows, columns).clone()
    whole[..., :height, :width] = a.image
    inside = ..., slice(scores.shape[2] - BORDER), slice(scores.shape[3] - BORDER)
    with torch.no_grad():
        corner = predict(method, whole, a.space)
    assert torch.allclose(scores[inside], corner[inside], atol=1e-4), "scores of an image of broken cells lie elsewhere"


def a_step_leaves_no_tensor_in_a_cycle_of_references(make: Make) -> None:
    """Check that a step's tensors are free when it ends: in a cycle they wait for Python's garbage collection."""
    method = build(make)
    train(method, 1)
    gc.collect()
    gc.disable()
    try:
        train(method, 1)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [tuple(found.shape) for found in gc.garbage if isinstance(found, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left, f"{len(left)} tensors of a step are still there after it, of shapes {left[:5]}"


EXAM: tuple[Callable[[Make], None], ...] = (
    learns_the_toy_world,
    losses_are_scalars_named_after_their_dataset,
    an_all_ignored_batch_has_a_finite_loss_with_a_graph,
    a_gradient_reaches_every_trainable_parameter,
    the_state_restores_predictions_exactly,
    predicts_in_every_space,
    an_unseen_class_without_node_scores_minus_infinity,
    an_unrelated_space_is_refused,
    the_order_of_images_and_of_batches_changes_no_loss,
    two_batches_of_a_dataset_add_up_and_weights_multiply,
    predictions_repeat_and_do_not_depend_on_the_rest_of_the_batch,
    images_of_any_size_are_taken,
    a_step_leaves_no_tensor_in_a_cycle_of_references,
)
"""Every check that takes no more than the method; `learns_the_toy_world` has options for methods that learn slowly."""


def exam(make: Make) -> None:
    """Run all checks."""
    for check in EXAM:
        check(make)

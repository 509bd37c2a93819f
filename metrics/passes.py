"""Calls of the model: they are checked once and always counted, and they take gradients of the input only.

A pass is one forward or one backward pass of one image. It is the unit of cost.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from metrics.precision import Precision, arithmetic, full_precision

Model = Callable[[Tensor], Tensor]
"""A callable from images in [0, 1], shape (N, C, H, W), to logits (N, K)."""


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the logit of the label minus the largest other logit, or that of the target; positive if the label wins.

    A tie has margin 0 and counts as misclassified.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.5]]), torch.tensor([0]))
        tensor([0.5000])
    """
    own = logits.gather(1, labels[:, None]).squeeze(1)
    if targets is not None:
        return own - logits.gather(1, targets[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own - others.amax(dim=1)


@contextmanager
def frozen_parameters(model: Model) -> Iterator[None]:
    """Disable the gradients of the parameters, which would double the cost of a backward pass."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    were_on = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in were_on:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in were_on:
            parameter.requires_grad_(True)


class Passes:
    """A model, with the number of passes spent on each of `count` images so far.

    `rows` gives the image that each row of a batch belongs to. An image may have several rows in one batch.

    Whether all logits were finite is asked when the counts are read, at the end of a metric: to ask after each pass
    would make a GPU wait.
    """

    def __init__(self, model: Model, count: int, device: torch.device) -> None:
        self.model = model
        self.eps = 0.0
        """Relative rounding error of the logits: the larger of those of the model's dtype and the images' dtype."""
        self.precision: Precision = "float32"
        """The arithmetic of the next passes. `eps` stays that of full precision."""
        self._forward = torch.zeros(count, dtype=torch.long, device=device)
        self._backward = torch.zeros(count, dtype=torch.long, device=device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self.compiled = is_compiled(model)

    @property
    def forward(self) -> Tensor:
        """Forward passes spent on each image, int64, shape (N,).

        Raises:
            ValueError: if a logit was not finite.
        """
        self.check_finite()
        return self._forward

    @property
    def backward(self) -> Tensor:
        """Backward passes spent on each image, int64, shape (N,).

        Raises:
            ValueError: if a logit was not finite.
        """
        self.check_finite()
        return self._backward

    def check_finite(self) -> None:
        """Check the logits of all passes so far.

        Raises:
            ValueError: if one was not finite.
        """
        if not self._finite:
            raise ValueError("got NaN or infinity among the logits of an image in [0, 1], expected finite numbers")

    def logits(self, images: Tensor, rows: Tensor) -> Tensor:
        """The logits of `images`, shape (R, K), without a graph."""
        with torch.no_grad():
            return self._call(images, rows)

    def logits_and_gradient(
        self, images: Tensor, rows: Tensor, objective: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits, shape (R, K), and the gradient of `objective(logits)`, shape (R,), for each image."""
        images = images.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self._call(images, rows)
            value = objective(logits).sum()
        return logits.detach(), self._gradient(value, images, rows)

    def target_gradients(
        self, images: Tensor, labels: Tensor, targets: Tensor, rows: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the logits, and the gradient of logit[label] - logit[target], for each column of `targets`, (R, T).

        One forward pass serves all targets, unless the model is compiled. Gradients are yielded one by one, so that
        only one is in memory.
        """
        columns = targets.shape[1]
        if self.compiled:
            for target in targets.unbind(dim=1):
                of_target = functools.partial(margin, labels=labels, targets=target)
                yield self.logits_and_gradient(images, rows, of_target)
            return
        images = images.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self._call(images, rows)
            for column in range(columns):
                margins = margin(logits, labels, targets[:, column])
                keep_graph = column + 1 < columns
                yield logits.detach(), self._gradient(margins.sum(), images, rows, keep_graph=keep_graph)

    def margin_with_graph(self, images: Tensor, labels: Tensor, targets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images as leaves, and the gradient of logit[label] - logit[target] with its graph.

        Both are inputs of `hessian_product`.

        Raises:
            ValueError: for a compiled model, which cannot be differentiated twice.
        """
        if self.compiled:
            raise ValueError(
                "got a compiled model, expected one that can be differentiated twice: the one before compile"
            )
        leaves = images.detach().requires_grad_(True)
        with torch.enable_grad():
            objective = margin(self._call(leaves, rows), labels, targets).sum()
            if not objective.requires_grad:
                return leaves, torch.zeros_like(leaves)
            (gradient,) = torch.autograd.grad(objective, leaves, create_graph=True, allow_unused=True)
        self._count(self._backward, rows)
        return leaves, torch.zeros_like(leaves) if gradient is None else gradient

    def hessian_product(self, leaves: Tensor, gradient: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
        """The Hessian times a vector for each image; counted as two backward passes."""
        self._count(self._backward, rows.repeat(2))
        if not gradient.requires_grad:
            return torch.zeros_like(vectors)
        (product,) = torch.autograd.grad(gradient, leaves, vectors, retain_graph=True, allow_unused=True)
        return torch.zeros_like(vectors) if product is None else product.detach()

    def _call(self, images: Tensor, rows: Tensor) -> Tensor:
        # Pass a copy, because a model may modify its input in place: a leaf of the graph, or the caller's images.
        with arithmetic(self.precision, images.device):
            logits = self.model(images.clone())
        # Count after the call: a forward pass that ran out of memory does not count.
        self._count(self._forward, rows)
        if isinstance(logits, Tensor) and logits.is_floating_point():
            self._finite &= logits.isfinite().all()
            if self.precision == "float32":
                self.eps = max(torch.finfo(logits.dtype).eps, torch.finfo(images.dtype).eps)
            return logits.to(images.dtype)
        return logits

    def _gradient(self, objective: Tensor, images: Tensor, rows: Tensor, *, keep_graph: bool = False) -> Tensor:
        if not objective.requires_grad:
            # Autograd sees no dependence of the logits on the image, so the gradient is zero.
            self._count(self._backward, rows)
            return torch.zeros_like(images)
        with arithmetic(self.precision, images.device):
            (gradient,) = torch.autograd.grad(objective, images, retain_graph=keep_graph, allow_unused=True)
        self._count(self._backward, rows)
        return torch.zeros_like(images) if gradient is None else gradient

    def _count(self, passes: Tensor, rows: Tensor) -> None:
        passes.index_add_(0, rows, torch.ones_like(rows))


def is_compiled(model: Model) -> bool:
    """Whether `torch.compile` has compiled the model or a part of it.

    The backward pass of a compiled network may overwrite what its forward pass has saved, so a graph serves once.
    torch 2.14 raises a RuntimeError for a second use. With `torch._functorch.config.donated_buffer = False`, as its
    message recommends, it returns wrong gradients.
    """
    modules = model.modules() if isinstance(model, nn.Module) else [model]
    return any(hasattr(one, "_orig_mod") or getattr(one, "_compiled_call_impl", None) for one in modules) or hasattr(
        model, "_torchdynamo_orig_callable"
    )


def check_model(model: Model) -> None:
    """Check that the model is callable and not in training mode, where its outputs are random or depend on the batch.

    Raises:
        ValueError: if it is not. The message names the first layer in training mode, or the type of the model.
    """
    if not callable(model):
        raise ValueError(f"got a model of {type(model).__name__}, expected a callable from images to logits")
    if not isinstance(model, nn.Module):
        return
    for name, module in model.named_modules():
        # A container without layers of its own behaves the same in both modes, but its flag is the one that users set.
        if module.training:
            where = f"layer {name!r}" if name else "the network"
            raise ValueError(f"got a model with {where} in training mode, expected evaluation mode: call model.eval()")


def check_images(images: Tensor, labels: Tensor) -> None:
    """Check that images and labels form a valid batch for an image classifier.

    Raises:
        ValueError: if they do not. The message gives what was got and what was expected.
    """
    for name, tensor in (("images", images), ("labels", labels)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"got {name} of {type(tensor).__name__}, expected a torch.Tensor")
    if images.dim() != 4 or not len(images):
        raise ValueError(f"got images of shape {tuple(images.shape)}, expected (N, C, H, W) with N >= 1")
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"got images of {images.dtype}, expected torch.float32 or torch.float64 in [0, 1]")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"got labels of shape {tuple(labels.shape)}, expected ({len(images)},), one for each image")
    if labels.dtype != torch.long:
        raise ValueError(f"got labels of {labels.dtype}, expected torch.int64 class numbers")
    if labels.device != images.device:
        raise ValueError(f"got images on {images.device} and labels on {labels.device}, expected one device")
    if not images.isfinite().all():
        bad = int((~images.isfinite().flatten(1).all(dim=1)).nonzero()[0])
        raise ValueError(f"got NaN or infinity in image {bad} of the batch, expected values in [0, 1]")
    smallest, largest = (bound.item() for bound in images.detach().aminmax())
    if smallest < 0 or largest > 1:
        raise ValueError(
            f"got image values from {smallest:g} to {largest:g}, expected [0, 1]: "
            "scale the images, and put the normalisation inside the model"
        )


def check_logits(logits: Tensor, labels: Tensor, what: str = "labels") -> None:
    """Check that the outputs of the model are logits for these labels.

    Raises:
        ValueError: for a wrong shape or dtype, labels out of range, or probabilities. Margins of probabilities are not
            comparable, and CLEVER scores of them are wrong.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels) or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"got model output {shape}, expected logits of shape ({len(labels)}, K) with K >= 2 classes")
    if not logits.is_floating_point():
        raise ValueError(f"got logits of {logits.dtype}, expected floating-point numbers")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(
            f"got {what} from {int(labels.min())} to {int(labels.max())}, "
            f"expected 0 to {logits.shape[1] - 1}: the model has {logits.shape[1]} classes"
        )
    sums = logits.sum(dim=1)
    if (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise ValueError(
            "got outputs that are never negative and sum to 1, which look like probabilities, expected logits: "
            "return the input of the softmax"
        )


HALF_PRECISION = 1e-4
"""Larger than the rounding error of float32, and smaller than those of bfloat16 and float16."""


def rounding_slack(logits: Tensor, classes: Tensor, eps: float) -> Tensor:
    """Return how far below 0 each margin must be so that rounding cannot change the verdict, shape (R,).

    The last bits of a logit depend on the batch that the image is in. The slack is sixteen units in the last place of
    the larger of the two logits that decide. That is more than the differences seen with all but a few models, and a
    few millionths of a usual margin. In half precision it is two units, because sixteen are an eighth of a logit: there
    more points turn back to their class in the verification. The slack is never 0, because a tie is not a verdict.

    Args:
        logits: shape (R, K).
        classes: the class of each margin, shape (R,): the label, or the target.
        eps: relative rounding error of the logits.
    """
    own = logits.gather(1, classes[:, None]).squeeze(1).abs()
    strongest_other = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1).abs()
    units = 16 if eps < HALF_PRECISION else 2
    return (units * eps * torch.maximum(own, strongest_other)).clamp_min(torch.finfo(logits.dtype).tiny)


def check_targets(targets: Tensor, labels: Tensor) -> None:
    """Check that the targets are valid for images with these labels.

    Raises:
        ValueError: if they are not. The message gives what was got and what was expected.
    """
    if not isinstance(targets, Tensor) or targets.shape != labels.shape or targets.dtype != torch.long:
        got = f"{tuple(targets.shape)} of {targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"got targets {got}, expected torch.int64 of shape ({len(labels)},), a class for each image")
    if targets.device != labels.device:
        raise ValueError(f"got labels on {labels.device} and targets on {targets.device}, expected one device")
    if (targets == labels).any():
        image = int((targets == labels).nonzero()[0])
        raise ValueError(f"got target {int(targets[image])} for image {image}, expected another class than its label")


def checked_logits(
    passes: Passes, images: Tensor, labels: Tensor, rows: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Return the clean logits, after a check that a second call gives the same logits.

    The second call is made in two halves, so that it also detects a network that mixes the images of a batch.

    Raises:
        ValueError: if the outputs are not logits, or differ between two calls on the same images.
    """
    logits = passes.logits(images, rows)
    passes.check_finite()
    check_logits(logits, labels)
    if targets is not None:
        check_logits(logits, targets, "targets")
    half = (len(images) + 1) // 2
    again = torch.cat([passes.logits(part, of) for part, of in zip(images.split(half), rows.split(half), strict=True)])
    difference = (logits - again).abs()
    if (difference > 1e-4 * logits.abs() + 100 * rounding_slack(logits, labels, passes.eps)[:, None]).any():
        raise ValueError(
            f"got outputs that differ by up to {float(difference.max()):g} between two calls on the same images, "
            "expected a deterministic model whose images do not influence each other: is a layer in training mode?"
        )
    return logits


@contextmanager
def differentiating(model: Model) -> Iterator[None]:
    """Prepare for gradients of the input only: freeze the parameters, and leave inference mode and autocast.

    Compute in full precision, too: rounding slacks and certificates are about the dtype of the images.
    """
    with torch.inference_mode(mode=False), frozen_parameters(model), full_precision(), ExitStack() as stack:
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield

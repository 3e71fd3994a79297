"""The network of `fit`'s row in PyTorch: eager, compiled, and as a CUDA graph of a whole step."""

import time
from collections.abc import Callable
from typing import Any

from .measured import Measured, NotHereError, of_rounds

BATCH, RATE = 100, 1e-3


def eager(*, tiny: bool) -> list[Measured]:
    """784-128-10 on preloaded tensors, Adam fused."""
    return _epochs("PyTorch, eager", tiny, lambda step: step)


def compiled(*, tiny: bool) -> list[Measured]:
    """The same; loss and gradients by `torch.compile`."""

    def prepare(function: Any) -> Any:
        import torch

        # A rehearsal does without a compiler of C++.
        return torch.compile(function, backend="aot_eager" if tiny else "inductor")

    return _epochs("PyTorch, compiled", tiny, prepare)


def graphs(*, tiny: bool) -> list[Measured]:
    """The same; a whole step is one CUDA graph, replayed."""
    if tiny:
        raise NotHereError("CUDA graphs need a GPU; left out of a rehearsal")
    network, adam, images, labels = _prepared(tiny)
    import torch

    indices = torch.zeros(BATCH, dtype=torch.long, device="cuda")

    def step() -> Any:
        adam.zero_grad(set_to_none=True)
        loss = _loss(network, images[indices], labels[indices])
        loss.backward()
        adam.step()
        return loss

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # what is allocated at first must not be in the graph
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def epoch() -> float:
        for batch in torch.randperm(len(labels), device="cuda").split(BATCH):
            indices.copy_(batch)
            graph.replay()
        return float(loss.detach())

    return [_timed("PyTorch, CUDA graphs", epoch, len(labels), rounds=5)]


def _loss(network: Any, images: Any, labels: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(network(images.float() / 255), labels)


def _prepared(tiny: bool) -> tuple[Any, Any, Any, Any]:
    """Network, optimizer, and Fashion-MNIST's shapes in noise, on the device."""
    try:
        import torch
    except ImportError as error:
        raise NotHereError("PyTorch is not installed") from error
    if not tiny and not torch.cuda.is_available():
        raise NotHereError(f"PyTorch {torch.__version__} sees no GPU; install its build for CUDA")
    device = "cpu" if tiny else "cuda"
    torch.manual_seed(0)
    examples = 400 if tiny else 60_000
    images = torch.randint(0, 256, (examples, 784), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (examples,), device=device)
    network = torch.nn.Sequential(
        torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    ).to(device)
    capturable = device == "cuda"
    adam = torch.optim.Adam(network.parameters(), RATE, fused=True, capturable=capturable)
    return network, adam, images, labels


def _epochs(what: str, tiny: bool, prepare: Callable[[Any], Any]) -> list[Measured]:
    network, adam, images, labels = _prepared(tiny)
    import torch

    loss_of = prepare(_loss)

    def epoch() -> float:
        for batch in torch.randperm(len(labels), device=labels.device).split(BATCH):
            adam.zero_grad(set_to_none=True)
            loss = loss_of(network, images[batch], labels[batch])
            loss.backward()
            adam.step()
        return float(loss.detach())

    return [_timed(what, epoch, len(labels), rounds=2 if tiny else 5)]


def _timed(what: str, epoch: Callable[[], float], examples: int, rounds: int) -> Measured:
    """An epoch's end is a number on the host, so all before it is done."""
    epoch()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        epoch()
        found.append(time.perf_counter() - started)
    return of_rounds(what, found, "s", f"an epoch of {examples:,}, batches of {BATCH}")

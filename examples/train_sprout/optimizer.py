"""Muon for the matrices, Adam for the rest, on float32 masters of bfloat16 weights.

Muon: K. Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024. The
momentum of a matrix is made nearly orthogonal by five Newton-Schulz steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
BETAS = (0.9, 0.95)
EPSILON = 1e-8
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrices: Tensor) -> Tensor:
    """[n, rows, columns] with all singular values near 1, computed in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Optimizer:
    """Steps of one model. All state is in `state()`, by name, to be stored and loaded."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = dict(model.named_parameters())
        self.masters = {name: p.detach().float().clone() for name, p in self.parameters.items()}
        self.first = {name: torch.zeros_like(m) for name, m in self.masters.items()}
        self.second = {
            name: torch.zeros_like(m) for name, m in self.masters.items() if not self.is_muon(name)
        }

    def is_muon(self, name: str) -> bool:
        """True for the matrices of the layers."""
        return self.parameters[name].ndim == 2 and "embed" not in name

    def step(self, count: int, muon_rate: float, adam_rate: float) -> None:
        """Apply and clear the gradients; `count` is the number of this step, from 1."""
        groups: dict[torch.Size, list[str]] = {}
        for name, parameter in self.parameters.items():
            if self.is_muon(name):
                groups.setdefault(parameter.shape, []).append(name)
            else:
                self._adam(name, count, adam_rate)
        for names in groups.values():
            self._muon(names, muon_rate)
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self.masters[name])
            parameter.grad = None

    def _gradient(self, name: str) -> Tensor:
        gradient = self.parameters[name].grad
        assert gradient is not None, f"{name} has no gradient"
        return gradient.float()

    def _muon(self, names: list[str], rate: float) -> None:
        """One step of matrices of one shape, with Nesterov momentum."""
        updates = []
        for name in names:
            gradient = self._gradient(name)
            self.first[name].lerp_(gradient, 1 - MOMENTUM)
            updates.append(gradient.lerp(self.first[name], MOMENTUM))
        rows, columns = updates[0].shape
        scale = rate * max(1.0, rows / columns) ** 0.5
        for name, update in zip(names, orthogonalized(torch.stack(updates)), strict=True):
            self.masters[name].sub_(update, alpha=scale)

    def _adam(self, name: str, count: int, rate: float) -> None:
        """One step of Adam without weight decay."""
        gradient = self._gradient(name)
        first = self.first[name].lerp_(gradient, 1 - BETAS[0])
        second = self.second[name].lerp_(gradient.square(), 1 - BETAS[1])
        root = (second / (1 - BETAS[1] ** count)).sqrt_().add_(EPSILON)
        self.masters[name].addcdiv_(first, root, value=-rate / (1 - BETAS[0] ** count))

    def state(self) -> dict[str, Tensor]:
        """Masters and moments under unique names; the tensors are the live ones."""
        kinds: Mapping[str, dict[str, Tensor]] = {
            "master": self.masters,
            "first": self.first,
            "second": self.second,
        }
        return {f"{kind}.{name}": t for kind, held in kinds.items() for name, t in held.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a stored state and write it to the model."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self.masters[name])

"""Trains the demo's digit recogniser and writes src/jouleflow/demo: `pip install 'jouleflow[train]'`, then
`python training/digits.py`. A minute on one core; everything random is seeded.

Data: the UCI optical digits that come with scikit-learn (1,797 images of 8 x 8, CC BY 4.0). The network sees them
enlarged to 16 x 16. It has each main kind of layer: convolution, depthwise and pointwise, a residual sum, a mean, a dense layer.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from jouleflow.graph.load import load_model
from jouleflow.graph.quantize import quantize_model
from jouleflow.graph.reference import run_reference

DEMO = Path(__file__).parents[1] / "src" / "jouleflow" / "demo"
SEED = 3
N_TEST = 360
N_SHIPPED = 60
EPOCHS = 40


class Block(nn.Module):
    """Depthwise and pointwise convolution with a residual sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.depthwise(x)))
        return torch.relu(x + self.norm2(self.pointwise(y)))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Block(16),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        Block(32), Block(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def images() -> tuple[np.ndarray, np.ndarray]:
    """float32 [1797, 1, 16, 16] in -1..1, and labels."""
    digits = load_digits()
    large = np.kron(digits.images, np.ones((2, 2))).astype(np.float32) / 8.0 - 1.0
    return large[:, None], digits.target


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    x, y = images()
    order = np.random.default_rng(SEED).permutation(len(x))
    test, train = order[:N_TEST], order[N_TEST:]
    net = network()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, epochs=EPOCHS, steps_per_epoch=len(train) // 64 + 1)
    xt, yt = torch.tensor(x[train]), torch.tensor(y[train])
    for epoch in range(EPOCHS):
        net.train()
        for batch in torch.randperm(len(xt)).split(64):
            shift = torch.randint(-1, 2, (2,)).tolist()
            loss = nn.functional.cross_entropy(net(torch.roll(xt[batch], shift, (2, 3))), yt[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
    net.eval()
    with torch.no_grad():
        accuracy = (net(torch.tensor(x[test])).argmax(1).numpy() == y[test]).mean()
    print(f"float accuracy on {N_TEST} held-out digits: {accuracy:.1%}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.onnx"
        torch.onnx.export(
            net,
            (torch.tensor(x[:1]),),
            path,
            input_names=["image"],
            output_names=["digit"],
            opset_version=17,
            dynamo=False,
        )
        quantize_model(path, x[train][:200], DEMO / "digits_int8.onnx")
    model = load_model(DEMO / "digits_int8.onnx")
    q = model.tensors[model.inputs[0]].quantisation
    assert q is not None
    inputs = np.clip(np.round(x[test] / q.scale[0]) + q.zero_point[0], -128, 127).astype(np.int8).transpose(0, 2, 3, 1)
    answers = run_reference(model, inputs).reshape(N_TEST, -1).argmax(1)
    print(f"int8 accuracy: {(answers == y[test]).mean():.1%}; {model.macs:,} MACs, {model.weight_bytes:,} weight bytes")
    np.savez_compressed(DEMO / "digits_test.npz", inputs=inputs[:N_SHIPPED], labels=y[test][:N_SHIPPED].astype(np.int8))


if __name__ == "__main__":
    main()

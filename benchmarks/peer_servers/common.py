"""What the peers' servers share: one ONNX Runtime session with one thread, and the model from the environment."""

import os

import numpy as np
import onnxruntime as ort

MODEL, SHAPE = os.environ["PEER_MODEL"], tuple(map(int, os.environ["PEER_SHAPE"].split(",")))
PORT, BATCH = int(os.environ["PEER_PORT"]), int(os.environ["PEER_BATCH"])  # rows of a batch at most


class Net:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": x})[0]


def row(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.float32).reshape(SHAPE)

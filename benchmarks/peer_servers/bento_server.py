import bentoml
import numpy as np
from common import Net


@bentoml.service(workers=2, traffic={"timeout": 60})
class Infer:
    def __init__(self) -> None:
        self.net = Net()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=1000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.net(x.astype(np.float32))

import os
import sysconfig

import numpy as np
from common import PORT, SHAPE, Net
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def worker(net: Net):
    @batch
    def infer(x):
        return [net(x)]

    return infer


if __name__ == "__main__":
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var(
        "LIBDIR"
    )  # its workers must find this Python, not the system's
    ports = {"http_port": PORT, "grpc_port": PORT + 1, "metrics_port": PORT + 2}
    with Triton(config=TritonConfig(http_address="127.0.0.1", grpc_address="127.0.0.1", **ports)) as triton:
        triton.bind(
            model_name="peer",
            infer_func=[worker(Net()), worker(Net())],
            inputs=[Tensor(name="x", dtype=np.float32, shape=SHAPE)],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=8, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)),
        )
        triton.serve()

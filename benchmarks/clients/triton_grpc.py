"""tritonclient over gRPC: one at a time, with a deadline, and many at once."""

import sys
from queue import Queue

import numpy as np
import tritonclient.grpc as triton

MODELS = ("kws", "rn20", "mbv2")
came = Queue()
client = triton.InferenceServerClient(sys.argv[2])
print("live", client.is_server_live(), "ready", client.is_server_ready(), client.get_server_metadata().version)
for name in MODELS:
    x = np.load(f"{name}_x.npy")
    given = triton.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    wanted = [triton.InferRequestedOutput("y")]
    answers = [client.infer(name, [given], outputs=wanted, client_timeout=10).as_numpy("y")]
    for _ in range(4):
        client.async_infer(name, [given], lambda result, error: came.put(error or result))
    answers += [came.get().as_numpy("y") for _ in range(4)]
    print(name, list(client.get_model_metadata(name).inputs[0].shape), answers[0].shape)
    np.save(f"{name}_y.npy", np.stack(answers))
print("kws answered", client.get_inference_statistics("kws").model_stats[0].inference_stats.success.count)

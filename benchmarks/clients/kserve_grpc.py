"""kserve's gRPC client: tensors as lists and as bytes."""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

MODELS = ("kws", "rn20", "mbv2")


async def main():
    client = InferenceGRPCClient(sys.argv[2])
    print("live", await client.is_server_live(), "ready", await client.is_server_ready())
    for name in MODELS:
        x, answers = np.load(f"{name}_x.npy"), []
        for binary in (False, True):
            given = InferInput("x", list(x.shape), "FP32")
            given.set_data_from_numpy(x, binary_data=binary)
            answer = await client.infer(InferRequest(name, [given], request_id="7"))
            answers.append(answer.outputs[0].as_numpy())
        print(name, "ready", await client.is_model_ready(name), "id", answer.id, answers[0].shape)
        np.save(f"{name}_y.npy", np.stack(answers))
    await client.close()


asyncio.run(main())

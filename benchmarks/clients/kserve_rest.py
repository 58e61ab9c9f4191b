"""kserve's REST client: JSON and binary tensors."""

import asyncio
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODELS = ("kws", "rn20", "mbv2")


async def main():
    base = f"http://{sys.argv[1]}"
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    print("live", await client.is_server_live(base), "ready", await client.is_server_ready(base))
    for name in MODELS:
        x, answers = np.load(f"{name}_x.npy"), []
        for binary in (False, True):
            given = InferInput("x", list(x.shape), "FP32")
            given.set_data_from_numpy(x, binary_data=binary)
            wanted = [RequestedOutput("y", parameters={"binary_data": binary})]
            request = InferRequest(name, [given], request_id="7", request_outputs=wanted)
            answer = await client.infer(base, request, model_name=name)
            answers.append(answer.outputs[0].as_numpy())
        print(name, "ready", await client.is_model_ready(base, name), "id", answer.id, answers[0].shape)
        np.save(f"{name}_y.npy", np.stack(answers))
    try:
        await client.infer(base, request, model_name="none")
    except Exception as error:
        print(type(error).__name__, str(error).partition(" for url")[0])
    await client.close()


asyncio.run(main())

"""tritonclient on asyncio, HTTP and gRPC side by side."""

import asyncio
import sys

import numpy as np
import tritonclient.grpc.aio as over_grpc
import tritonclient.http.aio as over_http

MODELS = ("kws", "rn20", "mbv2")


async def main():
    async with (
        over_http.InferenceServerClient(sys.argv[1]) as http,
        over_grpc.InferenceServerClient(sys.argv[2]) as grpc,
    ):
        for name in MODELS:
            x = np.load(f"{name}_x.npy")
            calls = []
            for module, client in ((over_http, http), (over_grpc, grpc)):
                given = module.InferInput("x", list(x.shape), "FP32")
                given.set_data_from_numpy(x)
                calls += [client.infer(name, [given]) for _ in range(3)]
            answers = [result.as_numpy("y") for result in await asyncio.gather(*calls)]
            print(name, len(answers), "answers of", answers[0].shape)
            np.save(f"{name}_y.npy", np.stack(answers))


asyncio.run(main())

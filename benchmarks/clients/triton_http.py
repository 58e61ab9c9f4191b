"""tritonclient over HTTP: binary, JSON, compressed, many at once; then model control on the admin listener."""

import os
import sys

import numpy as np
import tritonclient.http as triton

MODELS = ("kws", "rn20", "mbv2")
http, _, admin = sys.argv[1:]
client = triton.InferenceServerClient(http, concurrency=4)
print("live", client.is_server_live(), "ready", client.is_server_ready(), client.get_server_metadata()["extensions"])
for name in MODELS:
    x = np.load(f"{name}_x.npy")
    given = triton.InferInput("x", list(x.shape), "FP32")
    answers = []
    for binary in (True, False):
        given.set_data_from_numpy(x, binary_data=binary)
        wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
        answers.append(client.infer(name, [given], outputs=wanted, request_id="7").as_numpy("y"))
    answers.append(client.infer(name, [given], request_compression_algorithm="gzip").as_numpy("y"))
    answers += [later.get_result().as_numpy("y") for later in [client.async_infer(name, [given]) for _ in range(4)]]
    print(
        name,
        client.get_model_metadata(name)["inputs"],
        client.get_model_config(name)["max_batch_size"],
        answers[0].shape,
    )
    np.save(f"{name}_y.npy", np.stack(answers))
count = client.get_inference_statistics("kws")["model_stats"][0]["inference_stats"]["success"]["count"]
print("kws answered", count)

control, headers = (
    triton.InferenceServerClient(admin),
    {"Authorization": f"Bearer {os.environ['JOULEFLOW_ADMIN_TOKEN']}"},
)
control.unload_model("kws", headers=headers)
print("kws ready", client.is_model_ready("kws"), control.get_model_repository_index(headers=headers)[0])
control.load_model("kws", headers=headers)
print("kws ready", client.is_model_ready("kws"))

import numpy as np
from common import PORT, Net, row
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=2, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
class Infer:
    def __init__(self) -> None:
        self.net = Net()

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.002)
    async def run(self, rows):
        return list(self.net(np.stack(rows)))

    async def __call__(self, request: Request) -> Response:
        return Response((await self.run(row(await request.body()))).tobytes())


if __name__ == "__main__":
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Infer.bind())
    import time

    while True:
        time.sleep(1)

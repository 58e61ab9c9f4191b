import base64

import litserve
import numpy as np
from common import PORT, Net, row


class Infer(litserve.LitAPI):
    def setup(self, device) -> None:
        self.net = Net()

    def decode_request(self, request):
        return row(base64.b64decode(request["x"]))

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return self.net(x)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"y": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    api = Infer(max_batch_size=8, batch_timeout=0.002)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=2).run(
        port=PORT, generate_client_file=False, log_level="error"
    )

from common import BATCH, Net, row
from mosec import Server, Worker


class Infer(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def deserialize(self, data: bytes):
        return row(data)

    def serialize(self, data) -> bytes:
        return data.tobytes()

    def forward(self, data):
        import numpy as np

        return list(self.net(np.stack(data)))


if __name__ == "__main__":
    server = Server()
    server.append_worker(Infer, num=2, max_batch_size=BATCH, max_wait_time=1)
    server.run()

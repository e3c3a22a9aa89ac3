"""What is left of requests when they are answered: nothing."""

import concurrent.futures

from support.servers import Server


def fifty_requests(server: Server, fields: dict) -> int:
    """How many bytes the server holds after them that it did not hold after the first few."""
    with server.client() as client:

        def send(seed: int) -> int:
            small = {"seed": seed, "num_inference_steps": 1, "width": 64, "height": 96}
            return client.post("/api/v1/tryon", json=fields | small).status_code

        assert [send(seed) for seed in range(10)] == [200] * 10
        before = server.memory()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert set(pool.map(send, range(50))) == {200}
        return server.memory() - before


def test_fifty_requests_leave_no_memory(server, fields):
    assert fifty_requests(server, fields) < 40e6


def test_fifty_requests_leave_no_history_no_tensor_and_no_memory_in_an_open_comfyui(dev, fields):
    assert fifty_requests(dev, fields) < 40e6
    with dev.client() as client:
        probe = client.get("/probe").json()
        assert probe["history"] == 0
        assert probe["tensors"] == []
        assert client.get("/history").json() == {} and client.get("/queue").json()["queue_pending"] == []

"""What is left of a request when it is answered: nothing."""

import concurrent.futures

from support.servers import EMBEDDED, probe_server


def test_fifty_requests_leave_no_history_no_tensor_and_no_memory(engine, tmp_path, fields):
    with probe_server(engine, tmp_path, mode="--dev") as server, server.client() as client:

        def send(seed: int) -> int:
            return client.post("/api/v1/tryon", json=fields | {"seed": seed, "num_inference_steps": 1}).status_code

        assert [send(seed) for seed in range(10)] == [200] * 10
        before = server.memory()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert set(pool.map(send, range(50))) == {200}
        assert server.memory() - before < 40e6
        if engine == EMBEDDED:
            return
        probe = client.get("/probe").json()
        assert probe["history"] == 0
        assert probe["tensors"] == []
        assert client.get("/history").json() == {} and client.get("/queue").json()["queue_pending"] == []

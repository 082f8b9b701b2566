"""A loaded folder on a GPU: torch's memory is read and written where it lies, in stream order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ropeexport
from ropeexport.errors import MissingError
from ropeexport.machine import find_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_gpu() is None, reason="needs an NVIDIA GPU"),
]
ON_A_GPU = [("tensorrt", False), ("tensorrt", True), ("onnxruntime:cuda", False)]
SIZES = [{"length": 32}, {"length": 17}, {"length": 32}]


@pytest.fixture(params=ON_A_GPU, ids=lambda p: f"{p[0]}{', graphs' * p[1]}")
def model(request, built):
    runtime, graphs = request.param
    if runtime == "tensorrt":
        made = ropeexport.load(built, runtime=runtime, cuda_graphs=graphs)
    else:
        try:
            made = ropeexport.load(built, runtime=runtime)
        except MissingError as error:
            pytest.skip(str(error))
    with made:
        yield made


def test_tensors_stay_on_the_gpu(model, built) -> None:
    with ropeexport.load(built, device="cpu") as reference:
        for seed, sizes in enumerate(SIZES):
            given = model.random_inputs(sizes, seed)
            wanted = torch.from_numpy(reference.run(given)["out"]).float()
            tensors = {name: torch.from_numpy(x).cuda() for name, x in given.items()}
            own = torch.empty(wanted.shape, dtype=torch.float16, device="cuda")
            for out in (None, own):
                found = model(**tensors, out=out)
                assert found.is_cuda
                assert out is None or found is out
                torch.testing.assert_close(found.float().cpu(), wanted, rtol=2e-2, atol=2e-2)
            assert np.allclose(model.run(given)["out"].astype("f4"), wanted, rtol=2e-2, atol=2e-2)


def test_calls_of_several_streams_are_in_their_order(model) -> None:
    streams = [torch.cuda.Stream() for _ in range(4)]
    given = {n: torch.from_numpy(x).cuda() for n, x in model.random_inputs(SIZES[0]).items()}
    torch.cuda.synchronize()
    wanted = model(**given)
    torch.cuda.synchronize()
    found = []
    for number in range(40):
        with torch.cuda.stream(streams[number % 4]):
            scaled = {**given, "v": given["v"] * 2.0}  # made in this stream, just before
            found.append(model(**scaled) / 2.0)
    torch.cuda.synchronize()
    for each in found:
        torch.testing.assert_close(each, wanted, rtol=2e-2, atol=2e-2)


def test_a_tensor_of_the_cpu_is_refused(model) -> None:
    given = {name: torch.from_numpy(x) for name, x in model.random_inputs(SIZES[0]).items()}
    with pytest.raises(ropeexport.UsageError, match="q: expected on cuda, got on cpu"):
        model(**given)

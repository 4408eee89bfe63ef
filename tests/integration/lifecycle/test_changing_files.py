"""Files that change under a running server."""

import asyncio
import shutil
from time import monotonic

import numpy as np
import onnx.parser
import pytest

from rung.domain.predictions import Request
from rung.testing import models

pytestmark = pytest.mark.asyncio

ONES = np.ones((1, 4), np.float32)


async def test_a_file_that_is_replaced_is_loaded_again(manage, tmp_path):
    served = models.scale(tmp_path / "m.onnx", 2.0)
    async with manage(served) as manager:
        before = manager.find("m").digest
        models.scale(tmp_path / "new.onnx", 3.0).replace(served)
        await manager.until(lambda: manager.find("m").digest != before)
        await manager.until(lambda: manager.serves(1))
        assert await manager.ask() == (1, 3.0)


async def test_a_file_that_is_copied_over_slowly_is_loaded_when_whole(manage, tmp_path):
    served = models.scale(tmp_path / "m.onnx", 2.0)
    data = models.scale(tmp_path / "new.onnx", 3.0).read_bytes()
    async with manage(served) as manager:
        with served.open("wb") as file:
            for byte in data:
                file.write(bytes([byte]))
                file.flush()
                assert await manager.ask() == (1, 2.0)
                await asyncio.sleep(0.001)
        async with asyncio.timeout(30):
            while await manager.ask() != (1, 3.0):
                await asyncio.sleep(0.01)


async def test_a_file_with_weights_beside_it_survives_both_being_overwritten_in_place(manage, tmp_path):
    def write(folder, factor):
        folder.mkdir(exist_ok=True)
        model = onnx.load(models.scale(tmp_path / "plain.onnx", factor, columns=4096))
        weights = np.full(4096, factor, np.float32)
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "factor"))
        path = folder / "m.onnx"
        onnx.save(model, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
        return path

    async def factor(manager):
        x = np.ones((1, 4096), np.float32)
        return float((await manager.find("m").predict(Request({"x": x}, 1, arrived=monotonic()))).outputs["y"].max())

    served, new = write(tmp_path / "served", 2.0), write(tmp_path / "new", 3.0)
    async with manage(served) as manager:
        assert await factor(manager) == 2.0
        (served.parent / "m.onnx.data").write_bytes(b"")
        assert await factor(manager) == 2.0
        for file in ("m.onnx.data", "m.onnx"):
            (served.parent / file).write_bytes((new.parent / file).read_bytes())
        async with asyncio.timeout(30):
            while await factor(manager) != 3.0:
                await asyncio.sleep(0.01)


async def test_a_folder_in_the_layout_of_tf_serving_and_triton(manage, root, tmp_path):
    (root / "scale" / "1").mkdir(parents=True)
    models.scale(root / "scale" / "1" / "model.onnx", 2.0)
    (root / "scale" / "config.pbtxt").write_text('name: "scale"\nplatform: "onnxruntime_onnx"\n')
    async with manage(root) as manager:  # just copied: served at once all the same
        assert await manager.ask("scale") == (1, 2.0)
        (root / "scale" / "7").mkdir()
        models.scale(root / "scale" / "7" / "model.onnx", 3.0)
        await manager.until(lambda: manager.serves(7, name="scale"))
        models.scale(tmp_path / "again.onnx", 4.0).replace(root / "scale" / "7" / "model.onnx")
        async with asyncio.timeout(30):
            while await manager.ask("scale") != (7, 4.0):
                await asyncio.sleep(0.01)
        shutil.rmtree(root / "scale" / "7")
        await manager.until(lambda: manager.serves(1, name="scale"))

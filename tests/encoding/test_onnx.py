"""The ONNX backend: the file that is written, the weights that are read, what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from unprompt.encoding import EncoderError, load_encoder
from unprompt.encoding.bert_graph import bert_graph
from unprompt.encoding.encoder_config import read_encoder_config
from unprompt.encoding.onnx_backend import read_weights


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_is_valid_onnx(precision: str, model_folder: Path):
    config = read_encoder_config(model_folder)
    bert = json.loads((model_folder / "config.json").read_text())
    written = bert_graph(config, bert, read_weights(config.weights), precision)
    model = onnx.load_model_from_string(written)
    onnx.checker.check_model(model)
    held = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    true = load_file(model_folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    assert np.array_equal(held[name], true[name])
    layer = "encoder.layer.5.output.dense"
    matrix = true[f"{layer}.weight"].T
    if precision == "fp32":
        assert np.array_equal(held[layer], matrix)
    else:
        restored = held[f"{layer}.int8"] * held[f"{layer}.scale"]
        assert np.all(np.abs(restored - matrix) <= 0.5001 * held[f"{layer}.scale"])


def test_weights_of_every_width_and_shards_are_read(tmp_path: Path):
    import torch
    from safetensors.torch import save_file as save_torch

    values = torch.tensor([[1.0, -2.5, 3e-5], [65504.0, 0.0, 0.333]])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        save_torch({"x": values.to(dtype)}, tmp_path / "a.safetensors", {"format": "pt"})
        save_file({"y": values.numpy(), "n": np.arange(3)}, tmp_path / "b.safetensors")
        read = read_weights([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
        assert read["x"].dtype == np.float32
        assert np.array_equal(read["x"], values.to(dtype).float().numpy())
        assert np.array_equal(read["y"], values.numpy())
        assert "n" not in read  # position ids that older models hold


def test_weights_under_the_name_of_bert_are_the_same_model(own_folder: Path):
    weights = load_file(own_folder / "model.safetensors")
    (own_folder / "model.safetensors").unlink()
    plain = load_encoder(backend="onnx", precision="fp32").encode(["a cat"])
    save_file({f"bert.{k}": v for k, v in weights.items()}, own_folder / "model.safetensors")
    assert np.array_equal(load_encoder(str(own_folder), "onnx").encode(["a cat"]), plain)


@pytest.mark.parametrize("kept", [0, 5, 500, 1_000_000])
def test_truncated_weights(kept: int, own_folder: Path):
    path = own_folder / "model.safetensors"
    content = path.read_bytes()[:kept]
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(EncoderError, match=r"model\.safetensors: not a whole safetensors file"):
        load_encoder(str(own_folder), "onnx").encode(["a cat"])


def test_missing_weights(own_folder: Path):
    edit(own_folder / "config.json", num_hidden_layers=7)
    with pytest.raises(EncoderError, match=r"encoder\.layer\.6"):
        load_encoder(str(own_folder), "onnx").encode(["a cat"])


@pytest.mark.parametrize(
    ("key", "value"), [("model_type", "mpnet"), ("hidden_act", "relu"), ("hidden_act", None)]
)
def test_other_kinds_of_model_are_sent_to_torch(key: str, value: object, own_folder: Path):
    edit(own_folder / "config.json", **{key: value})
    with pytest.raises(EncoderError, match="use the torch backend"):
        load_encoder(str(own_folder), "onnx").encode(["a cat"])
    assert load_encoder(str(own_folder), precision="fp32", device="cpu").backend == "torch"


def test_pickled_weights_are_sent_to_torch(own_folder: Path):
    (own_folder / "model.safetensors").rename(own_folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="weights that are not safetensors"):
        load_encoder(str(own_folder), "onnx").encode(["a cat"])
    assert load_encoder(str(own_folder), precision="fp32", device="cpu").backend == "torch"


def test_encoding_on_onnx_imports_no_torch():
    code = (
        "import sys; from unprompt.encoding import encode; "
        "x = encode(['a cat'], backend='onnx', cache=False); "
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'onnx'}; "
        "print(x.shape, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 384) []\n"

"""Every form in which people have a classifier: what is returned, the type of the weights, files of other libraries."""

import collections
import importlib

import numpy as np
import pytest
import torch
from torch import nn

from meta_tests.subjects.wrong_subjects import Changed, good
from metrics import Status, adversarial_distance, certified_distance, clever
from robustness_tests import Classifier
from robustness_tests.subjects.datasets import digits
from robustness_tests.subjects.model_check import check_network
from robustness_tests.subjects.models import load_model
from robustness_tests.subjects.onnx_file import check_against_onnxruntime, check_not_quantised
from robustness_tests.subjects.outputs import adapted
from robustness_tests.subjects.sources import dataset_source, model_source

CPU = torch.device("cpu")
FEW = {"blocks": 10, "block_size": 8, "batch_size": 80}


def network(text, folder):
    return load_model(model_source(str(text), dataset_source("digits", folder), folder), folder, CPU)


def like_good(found, logits_tolerance=1e-5):
    """It gives the same logits and distances as the network that it was made from."""
    images, labels = digits("test").images[:6], digits("test").labels[:6]
    torch.testing.assert_close(found(images).float(), good()(images), rtol=logits_tolerance, atol=logits_tolerance)
    distances = [
        adversarial_distance(one, images, labels, norm="linf", effort="quick").distance for one in (found, good())
    ]
    torch.testing.assert_close(*distances, rtol=1e-3, atol=1e-6)


Output = collections.namedtuple("Output", "loss logits")  # noqa: PYI024  # as users have it


class ModelOutput(collections.OrderedDict):
    """What transformers returns: a mapping whose items are attributes, too."""

    def __getattr__(self, name):
        return self[name]


@pytest.mark.parametrize(
    ("after", "remark"),
    [
        (lambda logits: {"logits": logits, "features": logits.sum()}, "the logits are those in the dict"),
        (lambda logits: ModelOutput(loss=None, logits=logits), "the logits are those in the ModelOutput"),
        (lambda logits: Output(None, logits), "the logits are those in the Output"),
    ],
    ids=["dict", "ModelOutput", "attribute"],
)
def test_logits_in_an_output(after, remark):
    found, remarks = adapted(Changed(after=after), digits("test").images[:3])
    assert remarks == (f"{remark} that the model returns",)
    check_network(found, digits("test"), CPU)
    like_good(found)


def test_network_that_returns_logits_stays_as_it_is():
    plain = good()
    assert adapted(plain, digits("test").images[:2]) == (plain, ())


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
def test_one_logit_is_that_of_class_1(shape):
    """The distance is |logit| / dual norm of its gradient: the closed form of a linear model."""
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5])

    class One(nn.Module):
        def forward(self, images):
            return ((images.flatten(1) - 0.5) @ weights).reshape(shape)

    images = torch.tensor([[0.6, 0.5, 0.6, 0.5], [0.5, 0.6, 0.4, 0.5]]).view(2, 1, 2, 2)
    found, remarks = adapted(One().eval(), images)
    assert remarks == ("the model returns one logit: it is that of class 1, and class 0 has the logit 0",)
    torch.testing.assert_close(found(images), torch.tensor([[0, 0.4], [0, -0.5]]))
    measured = adversarial_distance(found, images, torch.tensor([1, 0]), norm="linf")
    torch.testing.assert_close(measured.distance, torch.tensor([0.4, 0.5]) / 6.5, rtol=1e-4, atol=0)


def test_one_probability_is_refused():
    class Sigmoid(nn.Module):
        def forward(self, images):
            return images.flatten(1).mean(dim=1, keepdim=True)

    with pytest.raises(ValueError, match="looks like a probability, expected a logit: return the input of the sigmoid"):
        adapted(Sigmoid().eval(), torch.rand(4, 1, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_another_type(dtype, wrapped):
    """Images stay float32, and adversarial examples are those of the very network."""
    plain = good().to(dtype)
    mine = Classifier(plain, normalize=([0.0], [1.0])) if wrapped else plain
    data = digits("test")
    images, labels = data.images[2:8], data.labels[2:8]
    found, remarks = adapted(mine, images[:2])
    assert remarks == (f"the model computes in {str(dtype).removeprefix('torch.')}",)
    assert found(images).dtype == dtype
    check_network(found, data, CPU)
    measured = adversarial_distance(found, images, labels, norm="linf")
    reference = adversarial_distance(good(), images, labels, norm="linf")
    assert measured.status.eq(Status.ATTACKED).all()
    assert measured.adversarial.dtype == torch.float32
    assert (found(measured.adversarial).argmax(dim=1) != labels).all()
    rounding = {torch.float64: 1e-3, torch.float16: 4e-3, torch.bfloat16: 0.03}[dtype]
    torch.testing.assert_close(measured.distance, reference.distance, rtol=rounding, atol=0)
    assert clever(found, images, labels, norm="linf", radius=0.2, **FEW).status.eq(Status.ESTIMATED).all()
    of_bounds = images[:2].double() if dtype == torch.float64 else images[:2]
    proved = certified_distance(found, of_bounds, labels[:2], norm="linf")
    if dtype == torch.float64:
        assert proved.status.eq(Status.CERTIFIED).all(), proved.reasons
    else:
        assert proved.status.eq(Status.UNAVAILABLE).all()
        assert "there are bounds for float32 and float64" in proved.reasons[0]


def test_small_perturbations_reach_a_network_in_bfloat16():
    """Images are normalised before they are rounded: near 1, bfloat16 has steps of 1/256."""
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2).bfloat16()

        def forward(self, images):
            seen.append(images.float())
            return self.layer(images.flatten(1))

    wrapped = Classifier(Net(), normalize=([0.9], [0.05]))
    wrapped(torch.tensor([0.899, 0.8995, 0.9, 0.9]).view(1, 1, 2, 2))
    assert seen[-1].flatten()[1] != seen[-1].flatten()[0]


def test_quantised_layers_are_refused_with_the_reason():
    network_of_two = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(network_of_two, {nn.Linear})
    with pytest.raises(ValueError, match=r"got a quantised layer '1' .*, through which no gradient goes, expected"):
        check_network(quantised, digits("test"), CPU)


def test_a_network_out_of_reach_of_bounds_is_unavailable_by_its_size(monkeypatch):
    """Without reading its graph, which alone may take longer than everything else."""
    read = []
    module = importlib.import_module("metrics.certified_distance")
    program_of = module.program_of
    monkeypatch.setattr(module, "program_of", lambda *given: read.append(given) or program_of(*given))
    torch.manual_seed(0)
    big, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000)).eval(), torch.rand(2, 3, 2, 2)
    # 12,000 multiplications for each of 999 margins, an eighth of the budget for the first radius.
    for budget, reasons in ((9.5e7, ("the network is too large for the budget",) * 2), (9.7e7, ("", ""))):
        found = certified_distance(big, images, big(images).argmax(dim=1), norm="linf", budget=budget)
        assert found.reasons == reasons
        assert bool(read) == (reasons == ("", ""))


def test_a_graph_that_cannot_be_read_is_quiet(capfd):
    class Shaped(nn.Module):
        def forward(self, images):
            width = int(images.sum().clamp(1, 1))
            return torch.stack([images.flatten(1)[:, :width].sum(dim=1), images.flatten(1).mean(dim=1)], dim=1)

    network, images = Shaped().eval(), torch.rand(2, 1, 2, 2)
    found = certified_distance(network, images, network(images).argmax(dim=1), norm="linf")
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out == ""
    assert all(reason.startswith("torch.export cannot read the graph of the model") for reason in found.reasons)


class Convolutions(nn.Module):
    """A small ResNet: a convolution, a residual block with batch normalisation, a mean."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        features = self.first(images).relu()
        return self.head((features + self.block(features)).mean(dim=(2, 3)))


class Attention(nn.Module):
    """A block of a vision transformer: patches, attention, GELU."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 2, stride=2)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        return self.head(self.block(self.patches(images).flatten(2).transpose(1, 2)).mean(dim=1))


@pytest.fixture(params=[Convolutions, Attention])
def trained(request):
    torch.manual_seed(0)
    data, net = digits("training"), request.param()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(60):
        rows = slice(step % 14 * 100, step % 14 * 100 + 100)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data.images[rows]), data.labels[rows]).backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def test_module_exported_program_and_onnx_give_the_same_numbers(trained, tmp_path):
    pytest.importorskip("onnx2pytorch")
    images, labels = digits("test").images[:6], digits("test").labels[:6]
    batch = torch.export.Dim("batch")
    program = torch.export.export(trained, (images[:2],), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    torch.onnx.export(
        trained, (images[:2],), tmp_path / "net.onnx", dynamic_shapes=({0: batch},), external_data=False, verbose=False
    )
    forms = [trained, network("net.pt2", tmp_path), network("net.onnx", tmp_path)]
    check_against_onnxruntime(tmp_path / "net.onnx", forms[2], images)
    distances = [
        adversarial_distance(one, images, labels, norm="l2", effort="quick", seed=range(6)).distance for one in forms
    ]
    assert distances[0].isfinite().any()
    for found in distances[1:]:
        torch.testing.assert_close(found, distances[0], rtol=1e-3, atol=1e-6)


def test_onnx_that_is_read_wrongly_is_refused(trained, tmp_path):
    pytest.importorskip("onnx2pytorch")
    images = digits("test").images[:2]
    torch.onnx.export(trained, (images,), tmp_path / "net.onnx", external_data=False, verbose=False)
    with pytest.raises(ValueError, match="expected logits: export the model with a dynamic batch"):
        check_against_onnxruntime(tmp_path / "net.onnx", trained, digits("test").images[:5])
    other = Changed(after=lambda logits: logits + 0.1)
    with pytest.raises(ValueError, match=r"differ from onnxruntime's by .*: onnx2pytorch misreads a layer"):
        check_against_onnxruntime(tmp_path / "net.onnx", other, images)


def test_onnx_with_an_unknown_layer_names_it(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2pytorch")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Secret", ["x"], ["y"], domain="mine")],
        "unknown",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 1, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 1])],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("mine", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"a layer that onnx2pytorch does not convert \(.*Secret.*\)"):
        network("net.onnx", tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"got a file bad\.onnx that is no ONNX model"):
        network("bad.onnx", tmp_path)


def hugging_face(folder):
    """A small ResNet of transformers with its image processor, saved as users save them."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(folder)
    processor = transformers.ViTImageProcessor(
        size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], resample=3
    )
    processor.save_pretrained(folder)
    return model, processor


def test_hugging_face_folder_is_the_model_with_its_normalisation(tmp_path):
    model, processor = hugging_face(tmp_path / "saved")
    found = network("hf:saved", tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    expected = model(**processor(list(pictures), return_tensors="pt")).logits
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    wrapped, remarks = adapted(found, images)
    torch.testing.assert_close(wrapped(images), expected, rtol=1e-4, atol=1e-5)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    labels = expected.argmax(dim=1)
    distances = [
        adversarial_distance(one, images, labels, norm="l2", effort="quick", seed=range(4)).distance
        for one in (wrapped, lambda given: model((given - mean) / std).logits)
    ]
    torch.testing.assert_close(*distances, rtol=1e-3, atol=1e-6)
    assert remarks == ("the logits are those in the ImageClassifierOutputWithNoAttention that the model returns",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf:nothing here", "got 'hf:nothing here', but there is no such folder, and it is no name"),
        ("hf:empty", "got 'hf:empty', a folder without config.json"),
    ],
)
def test_wrong_hugging_face_folder(tmp_path, text, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        network(text, tmp_path)


def test_hugging_face_without_network_says_what_to_do(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"got no preprocessor_config\.json of 'owner/name', expected the image"):
        network("hf:owner/name", tmp_path)


def test_hugging_face_model_without_its_head(tmp_path):
    """transformers would make one with random weights."""
    transformers = pytest.importorskip("transformers")
    hugging_face(tmp_path / "saved")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "saved")
    transformers.ResNetModel(config).save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"got no weights 'classifier.1.bias' in .*, which would be random"):
        network("hf:saved", tmp_path)


def test_a_lazy_layer_is_refused(tmp_path):
    (tmp_path / "lazy.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.LazyLinear(10)).eval()\n"
    )
    with pytest.raises(ValueError, match=r"got a lazy layer without weights \('1.weight'\)"):
        network("lazy.py:net", tmp_path)


def onnx_file(folder, kind, shape, nodes):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2pytorch")
    inputs = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in ("x", "z")[: len(nodes)]]
    made = [onnx.helper.make_node(*node) for node in nodes]
    given = [onnx.helper.make_tensor_value_info("y", kind, shape)]
    graph = onnx.helper.make_graph(made, "odd", inputs, given)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (10, ["n", 1, 8, 8], r"got an ONNX input of tensor\(float16\), expected float32 images"),
        (1, ["n", 8, 8, 1], r"got an ONNX input of shape .*, expected \(N, 1, 8, 8\), channels first"),
        (1, ["n", 64], r"got an ONNX input of shape .*, expected \(N, 1, 8, 8\), channels first"),
    ],
    ids=["float16", "channels last", "flat"],
)
def test_inputs_of_an_onnx_file(tmp_path, kind, shape, message):
    path = onnx_file(tmp_path, kind, shape, [("Identity", ["x"], ["y"])])
    with pytest.raises(ValueError, match=message):
        check_against_onnxruntime(path, good(), digits("test").images[:2])


def test_a_quantised_onnx_file(tmp_path):
    path = onnx_file(tmp_path, 1, ["n", 1, 8, 8], [("DynamicQuantizeLinear", ["x"], ["y", "s", "o"])])
    with pytest.raises(ValueError, match=r"got a quantised layer .*DynamicQuantizeLinear.*, and --deployed this one"):
        check_not_quantised(path)


def test_class_numbers_are_no_logit():
    class Classes(nn.Module):
        def forward(self, images):
            return good()(images).argmax(dim=1)

    found, remarks = adapted(Classes().eval(), digits("test").images[:3])
    assert remarks == ()
    with pytest.raises(ValueError, match="got model output"):
        check_network(found, digits("test"), CPU)

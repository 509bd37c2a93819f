"""Models and datasets of a user, right and wrong: copied beside a gate that has to refuse the wrong ones."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from robustness_tests import Classifier
from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.datasets import digits
from robustness_tests.subjects.models import bundled


def good():
    return bundled(MODELS["digits", "mlp"])


class Changed(nn.Module):
    """A good network with something before or after it."""

    def __init__(self, before=lambda images: images, after=lambda logits: logits):
        super().__init__()
        self.network, self.before, self.after = good(), before, after
        self.eval()

    def forward(self, images):
        return self.after(self.network(self.before(images)))


class WithoutGradient(Changed):
    @torch.no_grad()
    def forward(self, images):
        return super().forward(images)


def probabilities():
    return Changed(after=lambda logits: logits.softmax(dim=1))


def fewer_classes():
    return Changed(after=lambda logits: logits[:, :5])


def hidden_dropout():
    return Changed(before=lambda images: functional.dropout(images, 0.1, training=True))


def mixes_images():
    return Changed(before=lambda images: images - images.mean(dim=0) + 0.3)


def takes_bytes():
    return Changed(before=lambda images: images / 255)


def labels_from_one():
    return Changed(after=lambda logits: logits.roll(1, dims=1))


def rounded():
    return Changed(after=torch.round)


def without_gradient():
    return WithoutGradient()


def training_mode():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))


def nan_weights():
    network = good()
    next(iter(network.parameters())).data[0, 0] = torch.nan
    return network


def nan_logits():
    return Changed(after=lambda logits: logits / 0)


def other_channels():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10)).eval()


def other_architecture():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Linear(12, 10))
    network.load_state_dict(good().state_dict())
    return network


def untrained():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


def other_mean():
    return Classifier(good(), normalize=([0.5], [0.25, 0.25]))


def a_tuple():
    return Changed(after=lambda logits: (logits, logits))


def squeezed():
    return Changed(after=torch.squeeze)


def saturated():
    return Changed(after=lambda logits: logits + 1e-38 * logits.exp() - logits.detach() + 0 * logits)


def no_backward():
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits):
            return logits.clone()

    return Changed(after=Function.apply)


def random_weights():
    network = good()
    for parameter in network.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    return network


def not_a_network():
    return {"state_dict": 1}


def pair():
    some = digits("test")
    return some.images[:60], some.labels[:60]


def labels_from_one_pair():
    images, labels = pair()
    return images, labels + 1


def one_hot():
    images, labels = pair()
    return images, functional.one_hot(labels)


def up_to_255():
    images, labels = pair()
    return images * 255, labels


def normalised():
    images, labels = pair()
    return (images - 0.5) / 0.25, labels


def channels_last():
    images, labels = pair()
    return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1), labels


def bytes_with_channels_first():
    images, labels = pair()
    return (images.expand(-1, 3, -1, -1) * 255).to(torch.uint8), labels


def nan_image():
    images, labels = pair()
    images[3, 0, 0, 0] = torch.nan
    return images, labels


def too_few_labels():
    images, labels = pair()
    return images, labels[:-1]


def labels_of_floats():
    images, labels = pair()
    return images, labels.float()


def no_images():
    return np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64)


def only_images():
    return pair()[0]


class Items:
    """As a `torch.utils.data.Dataset` of a user."""

    def __init__(self, broken=False):
        self.images, self.labels = pair()
        self.broken = broken

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        if self.broken and row == 5:
            raise OSError("no such picture")
        return self.images[row], int(self.labels[row])


def ends_the_process():
    raise SystemExit(3)


def no_pixels():
    return np.zeros((3, 1, 0, 0), np.float32), np.zeros(3, np.int64)


def late_label():
    images, labels = pair()
    return images.repeat(6, 1, 1, 1), torch.cat([labels.repeat(5), labels + 50])


def huge_labels():
    images, labels = pair()
    return images, labels.numpy().astype(np.uint64) + 2**63


def items():
    return Items()


def broken_items():
    return Items(broken=True)

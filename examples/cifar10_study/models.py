"""Three networks for CIFAR-10 that others have trained: architecture here, weights in the folder beside this file."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from robustness_tests import Classifier

WEIGHTS = Path(__file__).with_name("weights")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut skips pixels and pads channels with zeros (He et al. 2015, option A)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.padding = (channels_out - channels_in) // 2

    def forward(self, features: Tensor) -> Tensor:
        """Features in, features out."""
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(features)))))
        skipped = features[:, :, :: self.stride, :: self.stride]
        return functional.relu(residual + functional.pad(skipped, (0, 0, 0, 0, self.padding, self.padding)))


class ResNet20(nn.Module):
    """ResNet-20 for images of 32x32 pixels (He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
        rest = [BasicBlock(channels_out, channels_out, 1) for _ in range(2)]
        return nn.Sequential(BasicBlock(channels_in, channels_out, stride), *rest)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, 32, 32); logits (N, 10)."""
        features = functional.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(features.mean(dim=(2, 3)))


def resnet20() -> nn.Module:
    """ResNet-20, trained in the standard way: 91.5 % of the first 1,000 test images."""
    return Classifier(_load(ResNet20(), "resnet20"), normalize=([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def cnn_a_standard() -> nn.Module:
    """A small CNN, trained in the standard way: 74.4 %."""
    return Classifier(_load(_small_cnn(), "cnn_a_standard"), normalize=([0.485, 0.456, 0.406], [0.225, 0.225, 0.225]))


def cnn_a_adv() -> nn.Module:
    """The same CNN, adversarially trained in L-infinity: 66.4 %."""
    return Classifier(_load(_small_cnn(), "cnn_a_adv"), normalize=([0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]))


def _small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def _load(network: nn.Module, name: str) -> nn.Module:
    network.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"), strict=True)
    return network.eval()

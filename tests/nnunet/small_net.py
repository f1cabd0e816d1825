"""A small network of torch, for what needs none of nnU-Net's."""

from torch import nn


class SmallNet(nn.Module):
    """A layer with a second name, a normalisation with running statistics, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 2, 1)
        self.decoder = nn.ModuleDict({"encoder": self.stem})

    def features(self, image):
        return self.norm(self.stem(image)).relu()

    def forward(self, image):
        return self.head(self.features(image))

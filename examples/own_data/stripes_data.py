"""A data set of one's own: horizontal and vertical stripes under noise."""

import torch

from schemenet import DATA, Labelled, LabelledData


@DATA.register("stripes")
class Stripes(LabelledData):
    """Images 16x16 of stripes with a random phase, horizontal (class 0) or vertical (class 1), and normal noise."""

    shape, num_classes = (1, 16, 16), 2

    def __init__(self, *, size: int = 1000, noise: float = 1.0, **options):
        self.size, self.noise = size, noise
        super().__init__(**options)

    def load(self, train: bool) -> Labelled:
        stream = torch.Generator().manual_seed(int(train))
        labels = torch.randint(2, (self.size,), generator=stream)
        phase = 6.28 * torch.rand(self.size, 1, 1, generator=stream)
        waves = torch.sin(torch.arange(16.0)[None, None] * 1.5 + phase).expand(-1, 16, -1)
        images = torch.where(labels[:, None, None] == 1, waves, waves.mT)
        return Labelled((images + self.noise * torch.randn(images.shape, generator=stream))[:, None], labels)

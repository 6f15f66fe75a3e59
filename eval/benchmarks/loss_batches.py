"""Made-up batches for the benchmark of the losses: features of classes, captions of their words, and who knows them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcontrast.negatives.batch import GlobalBatch, Siblings
from mmcontrast.negatives.evidence import new_calibrator
from mmcontrast.negatives.known import MatchKeys
from mmcontrast.negatives.pair_weights import PairWeights
from mmcontrast.negatives.settings import RuleSettings
from mmcontrast.negatives.weighting import Weighting
from mmcontrast.negatives.words import WordStatistics

CLASSES, VOCABULARY, LENGTH = 100, 8000, 14
LESSON = 512


def features(pairs: int, dim: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(n, d) unit vectors: pair i is of class i modulo the classes, and nearer to its own half than to its class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, dim, generator=torch.Generator().manual_seed(99))
    own = torch.randn(pairs, dim, generator=generator)
    both = centres[torch.arange(pairs) % CLASSES] + own
    sides = (both + 1.5 * torch.randn(pairs, dim, generator=generator) for _ in range(2))
    image, text = (F.normalize(side, dim=1).to(device) for side in sides)
    return image, text


def captions(pairs: int, seed: int = 0) -> Tensor:
    """(n, t) ids: half of the words are of the class."""
    generator = torch.Generator().manual_seed(seed)
    general = torch.randint(2, VOCABULARY, (pairs, LENGTH), generator=generator)
    of_class = (torch.arange(pairs) % CLASSES)[:, None] * 7 + torch.randint(0, 20, (pairs, LENGTH), generator=generator)
    return torch.where(torch.rand(pairs, LENGTH, generator=generator) < 0.5, general, 2 + of_class)


def batch_of(image: Tensor, text: Tensor, scale: Tensor, seed: int = 0, siblings: int = 0) -> GlobalBatch:
    """A batch of features, all captions different."""
    pairs, device = len(image), image.device
    index = torch.arange(pairs, device=device) + pairs * seed
    ids = captions(pairs, seed).to(device)
    further = None
    if siblings:
        others = slice(CLASSES, CLASSES + siblings)  # of the same classes, so that all of a class match
        further = Siblings(
            text[others], ids[others], torch.ones_like(ids[others]), torch.arange(siblings, device=device)
        )
    return GlobalBatch(
        image=image.detach().float(),
        text=text.detach().float(),
        scale=scale.detach().float(),
        keys=MatchKeys(index, index + 1, (index + 1)[:, None], torch.zeros_like(index)),
        label=index % CLASSES,
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        local=slice(0, pairs),
        siblings=further,
    )


def learnt_weighting(dim: int, device: str) -> Weighting:
    """Duplicates and a calibrator that has learnt from some batches."""
    weighting = Weighting(
        RuleSettings(rules=("duplicates", "calibrated")),
        calibrator=new_calibrator(linked=False, device=device),
        words=WordStatistics(VOCABULARY, device),
    )
    assert weighting.calibrator is not None
    seed = 1
    while not weighting.calibrator.ready:
        image, text = features(LESSON, dim, device, seed)
        weighting(batch_of(image, text, torch.tensor(50.0, device=device), seed, siblings=64), 0.0)
        seed += 1
    return weighting


def weights_of(weighting: Weighting, image: Tensor, text: Tensor, scale: Tensor) -> PairWeights:
    """What a batch's pairs count; the calibrator does not learn from it."""
    return PairWeights(
        weighting.settings,
        batch_of(image, text, scale),
        strength=1.0,
        calibrator=weighting.calibrator,
        words=weighting.words,
    )

"""Pictures in words: a street's things as sums of word embeddings, in the place of its visual tokens.

A language model that has learned to answer about these can read, compare and count before it has to learn to see. It is
a picture's caption, without a sentence around it.

    S things   H width of the language model
"""

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from harness.data.drawing.seeded_random import SeededRandom
from harness.data.drawing.street import Street


def words(street: Street) -> list[str]:
    """What stands in the street, each thing with what can be asked about it, in the words of the questions."""
    things = [f" car| {paint}" for paint in street.cars]
    things += [f" {item}| {side}" for item, side in street.items.items()]
    if street.light:
        lamp, arrow = street.light
        things.append(f" the traffic light| traffic light| {lamp}| {arrow.replace('none', 'there is no arrow')}")
    if street.sign:
        things.append(f" the round sign| round sign| {street.sign}")
    if street.bus:
        things.append(f" bus| {street.bus}")
    if street.coat:
        things.append(f" pedestrian| {street.coat}")
    return things


def picture(street: Street, rng: SeededRandom, tokenizer: Tokenizer, embed: nn.Embedding) -> Tensor:
    """The street's things in random order among some empty places, (S, H)."""
    rows = []
    for thing in rng.shuffled([*words(street), *[""] * rng.between(4, 12)]):
        ids = [i for word in thing.split("|") for i in tokenizer.encode(word).ids] if thing else []
        rows.append(embed(torch.tensor(ids)).sum(0) if ids else torch.zeros(embed.embedding_dim))
    x_SH = torch.stack(rows)
    return x_SH + torch.randn(x_SH.shape, generator=torch.Generator().manual_seed(rng.below(1 << 30))) * 0.02

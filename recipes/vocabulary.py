"""The miniature's tokenizer: a byte-level BPE like Qwen2's, its merges learned from the bundled benchmarks' prompts.

What every prompt repeats is one token each, which halves a prompt's length and with it the time to train on it. So is
an option with its letter: a model this small is slow to learn that a letter belongs to the word after it.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from harness.data import glimpseqa, streetsqa
from harness.data.questions import CHOICES, LETTERS
from harness.models.prompts import ONEVISION

END, START, STOP, IMAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"
SPECIAL = (END, START, STOP, IMAGE)
PHRASES = (
    "user\n",
    "assistant\n",
    "Question: ",
    "\nOptions:",
    *(f"\n{letter}. " for letter in LETTERS),
    *(
        f"\n{letter}. {value}"
        for letter in LETTERS
        for value in sorted({v for _, values in CHOICES.values() for v in values})
    ),
    "\nPlease select the correct answer from the options above. \n",
    " Please answer yes or no.",
    "What colour",
    " nowhere",
    " up",
    " there is no arrow",
    *(f" {answer}" for answer in (*LETTERS, "Yes", "No")),
    " the traffic light",
    " the round sign",
    " of the road?",
    " in the picture?",
    "Not counting the bus, there",
    " in the picture. Is this right?",
    " on the road, not counting the bus?",
)
_MERGED_SIZE = 480
_BOOKS = 4

VOCABULARY = 576
"""Rows of the model's embedding: room for the tokens that there are."""


def make_tokenizer() -> Tokenizer:
    """The tokenizer; any text can be written in it, for every byte is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_MERGED_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    assert tokenizer.get_vocab_size() <= VOCABULARY
    return tokenizer


def _texts() -> list[str]:
    """The words between the phrases, from training prompts."""
    texts = []
    for number in range(_BOOKS):
        for page in streetsqa.book("train", number) + glimpseqa.book("train", number):
            for asked in page.questions:
                text = ONEVISION.before + ONEVISION.suffix(asked.question) + asked.truth
                for phrase in sorted((*PHRASES, *SPECIAL), key=len, reverse=True):
                    text = text.replace(phrase, "\x00")
                texts += text.split("\x00")
    return texts

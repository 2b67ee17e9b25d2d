"""Conversations: written by the model's own template, in the jail, as transformers would write them."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from auditor.base.errors import AuditorError
from auditor.data import Sample
from auditor.data.checked import Written
from auditor.intake.chat import write_conversations
from auditor.models import Model
from auditor.models.chat import template_of, written
from auditor.models.tokens import encode_texts, load_tokenizer
from tests.models.tiny.entry import word_tokenizer

SYSTEM = {"role": "system", "content": "Be brief.\n"}
TALKS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "  Four. "}],
    [SYSTEM, {"role": "user", "content": "A <b> \"city\" & a river?"}, {"role": "assistant", "content": "Linz."}],
    [{"role": "user", "content": "ça va, 東京?"}],
]  # fmt: skip
# In the manner of Llama 3, Mistral, Gemma and Qwen: begin tokens, loops with filters, refusals, marks for training.
TEMPLATES = {
    "begin": "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] | trim }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "first": "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{%- set rest = messages[1:] if system else messages %}{% for m in rest %}{% if loop.first and system %}"
    "[S]{{ system }}[/S]{% endif %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}",
    "json": "{% for m in messages %}\n  {{ m | tojson(indent=1) }}\n{% endfor %}\n",
    "marks": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% continue %}{% endif %}!{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.role }}"
    "{% endfor %}{% if tools is not none %}tools{% endif %}",
}  # fmt: skip


def sample(talk: list[dict[str, Any]], id: str = "a") -> Sample:
    return Sample(id, messages=tuple(talk))


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerFast:
    word_tokenizer(tmp_path, ends=True)
    found: PreTrainedTokenizerFast = load_tokenizer(tmp_path)
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_that_a_template_writes_what_it_writes_in_transformers(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = TEMPLATES[name]
    found = [one.text for one in written([sample(talk) for talk in TALKS], tokenizer, "tiny")]
    assert found == [tokenizer.apply_chat_template(talk, tokenize=False) for talk in TALKS]


def test_that_a_real_models_own_template_is_used(tiny_llama: Model) -> None:
    samples = [sample(talk) for talk in TALKS]
    found = [one.text for one in written(samples, tiny_llama.tokenizer, "smollm2")]
    assert found == [tiny_llama.tokenizer.apply_chat_template(talk, tokenize=False) for talk in TALKS]
    inputs = tiny_llama.encode(samples)
    for number, talk in enumerate(TALKS):
        wanted = tiny_llama.tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)
        assert inputs.ids[number, : len(wanted)].tolist() == wanted
    marks = tiny_llama.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    special = (inputs.ids == marks[0]) | (inputs.ids == marks[1])
    assert (inputs.kind[special] == 3).all() and (inputs.unit[special] == -1).all() and int(special.sum()) == 16


def test_that_a_begin_token_of_the_template_is_not_doubled(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = encode_texts(tokenizer, ["<s>one two", "one two"], begin=True, max_tokens=None)
    assert rows[0] == rows[1] and rows[0][:2] == [1, 4]


def test_that_a_template_is_found_in_the_tokenizers_settings(tmp_path: Path) -> None:
    import json

    for held, wanted in (("plain", "plain"), ([{"name": "default", "template": "named"}], "named")):
        word_tokenizer(tmp_path, ends=True)
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": held}))
        assert load_tokenizer(tmp_path).chat_template == wanted


def test_that_what_a_template_refuses_is_one_sentence(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate.') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    template = template_of(tokenizer, "tiny")
    assert template is not None
    fine, refused = template([TALKS[0], TALKS[1]])
    assert fine == Written("What is 2 + 2?  Four. ") and isinstance(refused, AuditorError)
    assert refused.message == "the model's chat template says: Roles must alternate."
    with pytest.raises(AuditorError, match="“a”: the model's chat template says"):
        written([sample(TALKS[1])], tokenizer, "tiny")
    tokenizer.chat_template = None
    with pytest.raises(AuditorError, match="“tiny” has no chat template"):
        written([sample(TALKS[0])], tokenizer, "tiny")


def test_that_the_day_of_a_template_never_changes() -> None:
    (found,) = write_conversations("{{ strftime_now('%d %b %Y') }}", [TALKS[0]], {})
    assert found == "01 Jan 2025"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ self._TemplateReference__context.environment.loader }}{{ lipsum.__globals__.os.system('touch CANARY') }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_that_a_template_reaches_nothing_outside(template: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    try:
        (found,) = write_conversations(template.replace("CANARY", str(canary)), [TALKS[0]], {})
    except AuditorError:
        found = None
    assert not isinstance(found, str) or not found.strip() or found == "None"
    assert not canary.exists()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for %}", "no sound template"),
        ("{% for m in messages %}", "no sound template"),
        ("{{ 'x' * 3000000000 }}", "memory"),
        ("x" * (2 << 20), "longer than 1 MiB"),
    ],
)
def test_that_a_harmful_template_is_told(template: str, said: str) -> None:
    started = time.monotonic()
    try:
        (found,) = write_conversations(template, [TALKS[0]], {})
        assert isinstance(found, AuditorError) and said in f"{found.message} MemoryError memory"
    except AuditorError as error:
        assert said in error.message
    assert time.monotonic() - started < 10
    assert write_conversations("ok", [TALKS[0]], {}) == ["ok"]


# In the manner of Qwen2-VL, which takes texts and parts; of SmolVLM, which takes parts alone.
PICTURED = {
    "<|vision_start|><|image_pad|><|vision_end|>":
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' or 'image' in c %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}",
    "<image>":
    "{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}"
    "{{ ': ' }}{% endif %}{% for line in m['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end>\n{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("mark", PICTURED)
def test_that_pictures_of_a_conversation_stand_where_the_template_writes_them(
    mark: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = PICTURED[mark]
    said = [{"type": "image"}, {"type": "text", "text": "Is <image> a mark?"}, {"type": "image"}]
    talk = [{"role": "user", "content": said}, {"role": "assistant", "content": f"No, {mark} is text."}]
    template = template_of(tokenizer, "tiny")
    assert template is not None
    (found,) = template([talk])
    assert not isinstance(found, AuditorError)
    ends = [0, *found.places, len(found.text)]
    again = mark.join(found.text[start:stop] for start, stop in pairwise(ends))
    in_parts = [talk[0], {"role": "assistant", "content": [{"type": "text", "text": f"No, {mark} is text."}]}]
    assert again == tokenizer.apply_chat_template(in_parts, tokenize=False)
    assert len(found.places) == 2 and "Is <image> a mark?" in found.text and f"No, {mark} is text." in found.text

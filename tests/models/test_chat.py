"""Language models on this machine; servers are tested where they are asked (relate/test_judge.py)."""

import pytest
from advice import follow
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from manyseg.errors import UserError
from manyseg.models import chat


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "TOKENS", 3)
    words = Tokenizer(WordLevel({"same": 0, "[EOS]": 1, "task": 2, "question": 3, "[UNK]": 4}, "[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]")
    config = LlamaConfig(
        vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for p in model.parameters():
        p.data.zero_()
    # Equal scores for every word: the first one is taken each time.
    model.save_pretrained(tmp_path / "model")

    def saved(template):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return saved


def test_a_local_model_answers_the_task_and_the_question(folder):
    answer = chat.chat_model(folder("{% for m in messages %}{{ m['content'] }} {% endfor %}"))
    assert answer("task", "question").split() == ["same"] * 3


def test_a_model_without_a_chat_template_is_refused(folder):
    with pytest.raises(UserError, match="has no chat template"):
        chat.chat_model(folder(None))


def test_a_name_goes_with_a_server_only(folder):
    with pytest.raises(UserError, match="names a model of a server"):
        chat.chat_model(folder(None), "qwen3")


def test_a_local_model_is_named_as_advised(folder, tmp_path):
    good = folder("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    (tmp_path / "empty").mkdir()
    for wrong, said in (
        ((good, "qwen3"), "is none; leave it out"),
        ((str(tmp_path / "empty"),), "is no language model: .*; give a folder, a hub name, or a URL"),
    ):
        follow(lambda wrong=wrong: chat.chat_model(*wrong), said, lambda: chat.chat_model(good))
    follow(
        lambda: chat.chat_model("http://127.0.0.1:9/v1"),
        "name the one to ask with --judge-model",
        lambda: chat.chat_model("http://127.0.0.1:9/v1", "m"),
    )


def test_a_model_that_was_made_to_follow_instructions_is_taken_as_advised(folder):
    follow(
        lambda: chat.chat_model(folder(None)),
        "has no chat template; take a model that was made to follow instructions",
        lambda: chat.chat_model(folder("{% for m in messages %}{{ m['content'] }} {% endfor %}")),
    )

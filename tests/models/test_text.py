import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from manyseg.errors import UserError
from manyseg.models import text as module
from manyseg.models.text import TextEncoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "car", "tree", "light", "traffic", "road"]

minilm = pytest.mark.skipif(find_spec(module.OFFLINE[0]) is None, reason="the extra 'offline' is not installed")


def _save(folder, model):
    """Save a randomly initialised model, and a tokenizer of ten words with frame tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=16,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return model.eval()


SMALL = {
    "vocab_size": 10,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}


@pytest.fixture
def bert(tmp_path):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return tmp_path / "bert", _save(tmp_path / "bert", BertModel(BertConfig(**SMALL)))


def _unit(vector):
    return (vector / vector.norm()).detach().numpy()


def test_an_encoder_like_bert_gives_the_mean_over_all_its_tokens(bert, tmp_path):
    folder, model = bert
    vectors = TextEncoder(str(folder), tmp_path / "cache").encode(["traffic light", "car"])
    assert vectors.dtype == np.float32
    last = model(torch.tensor([[2, 8, 7, 3]])).last_hidden_state[0]
    np.testing.assert_allclose(vectors[0], _unit(last.mean(0)), atol=1e-6)


def test_a_decoder_gives_the_mean_over_the_words_without_the_frame(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = _save(tmp_path / "llama", LlamaForCausalLM(LlamaConfig(**SMALL)))
    vectors = TextEncoder(str(tmp_path / "llama"), tmp_path / "cache").encode(["car", "traffic light"])
    last = model.model(torch.tensor([[2, 8, 7, 3]])).last_hidden_state[0]
    np.testing.assert_allclose(vectors[1], _unit(last[1:3].mean(0)), atol=1e-6)


def _clip_text(kind):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(**SMALL, projection_dim=6, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    if kind == "whole":
        sizes = {k: SMALL[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
        vision = {**sizes, "image_size": 8, "patch_size": 4}
        return CLIPModel(CLIPConfig(text_config=config.to_dict(), vision_config=vision, projection_dim=6))
    return (CLIPTextModelWithProjection if kind == "projected" else CLIPTextModel)(config)


@pytest.mark.parametrize(("kind", "width"), [("whole", 6), ("projected", 6), ("plain", 8)])
def test_clip_gives_its_projected_vector_where_it_has_one(tmp_path, kind, width):
    model = _save(tmp_path / "clip", _clip_text(kind))
    vector = TextEncoder(str(tmp_path / "clip"), tmp_path / "cache").encode(["car", "traffic light"])[1]
    assert vector.shape == (width,)
    tower = model if kind == "plain" else model.text_model
    pooled = tower(input_ids=torch.tensor([[2, 8, 7, 3]])).pooler_output[0]
    np.testing.assert_allclose(vector, _unit(pooled if kind == "plain" else model.text_projection(pooled)), atol=1e-6)


def test_padding_does_not_change_a_vector(bert, tmp_path):
    alone = TextEncoder(str(bert[0]), tmp_path / "a").encode(["car"])
    beside = TextEncoder(str(bert[0]), tmp_path / "b").encode(["car", "traffic light road tree car"])
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-6)


def test_equal_texts_are_encoded_once_and_order_is_kept(bert, tmp_path, monkeypatch):
    encoder = TextEncoder(str(bert[0]), tmp_path / "cache")
    asked = []
    original = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda texts: asked.extend(texts) or original(texts))
    monkeypatch.setattr(module, "BATCH", 2)
    vectors = encoder.encode(["car", "tree", "car", "road"])
    assert asked == ["car", "tree", "road"]
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert abs(vectors[0] @ vectors[3]) < 0.999


def _no_model(monkeypatch):
    def fail(source):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(module, "_load", fail)


def test_a_cached_text_needs_no_model(bert, tmp_path, monkeypatch):
    first = TextEncoder(str(bert[0]), tmp_path / "cache").encode(["car", "tree"])
    _no_model(monkeypatch)
    again = TextEncoder(str(bert[0]), tmp_path / "cache")
    np.testing.assert_array_equal(again.encode(["tree", "car"]), first[::-1])
    with pytest.raises(AssertionError, match="was loaded"):
        again.encode(["road"])


def test_the_cache_knows_weights_apart(bert, tmp_path, monkeypatch):
    from transformers import BertConfig, BertModel

    TextEncoder(str(bert[0]), tmp_path / "cache").encode(["car"])
    _save(bert[0], BertModel(BertConfig(**SMALL)))
    _no_model(monkeypatch)
    with pytest.raises(AssertionError, match="was loaded"):
        TextEncoder(str(bert[0]), tmp_path / "cache").encode(["car"])


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01", "zeroed", "another array"])
def test_a_damaged_cache_entry_is_made_again(bert, tmp_path, damage):
    encoder = TextEncoder(str(bert[0]), tmp_path / "cache")
    vector = encoder.encode(["car"])
    (entry,) = (tmp_path / "cache").rglob("*.npy")
    if damage == "zeroed":
        entry.write_bytes(entry.read_bytes()[:-16] + bytes(16))
    elif damage == "another array":
        np.save(entry, np.ones((2, 2)))
    else:
        entry.write_bytes(damage)
    np.testing.assert_allclose(encoder.encode(["car"]), vector, atol=1e-6)
    np.testing.assert_allclose(np.load(entry), vector[0], atol=1e-6)


def test_many_writers_leave_whole_entries_and_nothing_else(tmp_path):
    vector = np.eye(1, 1000, dtype=np.float32)[0]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: module._write(tmp_path / "a" / "x.npy", vector), range(40)))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.npy"]
    np.testing.assert_array_equal(module._read(tmp_path / "a" / "x.npy"), vector)


def test_a_cache_that_cannot_be_written_costs_only_time(bert, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert TextEncoder(str(bert[0]), tmp_path / "file").encode(["car"]).shape == (1, 8)


def test_the_cache_folder_comes_from_the_environment(bert, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYSEG_CACHE", str(tmp_path / "mine"))
    assert TextEncoder(str(bert[0])).cache == tmp_path / "mine"


def test_no_text_gives_no_vector_and_an_empty_text_is_an_error(bert, tmp_path):
    encoder = TextEncoder(str(bert[0]), tmp_path / "cache")
    assert encoder.encode([]).shape == (0, 0)
    with pytest.raises(UserError, match="text 1 of 2"):
        encoder.encode(["car", " "])


def test_without_the_offline_package_the_error_says_how_to_get_an_encoder(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"manyseg\[offline\].*--by names"):
        TextEncoder()


@pytest.mark.parametrize("name", ["./no/such/folder", "no-such-maker/no-such-model"])
def test_an_encoder_that_cannot_be_found_is_an_error_of_one_line(tmp_path, name):
    with pytest.raises(UserError, match=r"no-such-model|no such folder") as error:
        TextEncoder(name, tmp_path).encode(["car"])
    assert "\n" not in str(error.value)


def test_a_folder_that_holds_no_encoder_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot load text encoder"):
        TextEncoder(str(tmp_path / "empty"), tmp_path / "cache").encode(["car"])


@minilm
def test_offline_minilm_finds_car_nearer_to_automobile_than_to_tree(tmp_path):
    car, automobile, tree, same = TextEncoder(cache=tmp_path).encode(["car", "automobile", "tree", "car"])
    assert car @ automobile > 0.8 > car @ tree
    assert car @ same == pytest.approx(1)


@minilm
def test_offline_weights_that_are_not_the_published_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OFFLINE", (module.OFFLINE[0], "0" * 64))
    with pytest.raises(UserError, match="sha256"):
        TextEncoder(cache=tmp_path).encode(["car"])


def test_importing_the_models_loads_neither_transformers_nor_timm():
    code = "import sys, manyseg.models, manyseg.models.text; print({'transformers', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

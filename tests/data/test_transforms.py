import dataclasses
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

import vitjax
from tests.data.corpus import photo
from vitjax.data import ImageError, Preprocess, preprocess, read_image
from vitjax.data.transforms import model_input
from vitjax.errors import UserError
from vitjax.pretrained import HALF, IMAGENET, MODELS, OPENAI, SATELLITE

CROP = Preprocess(224, 0.9, "bicubic", *IMAGENET)


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        # timm: floor(224 / .9) = 248 for the shorter side, the longer cut down to whole pixels,
        # the corner rounded half to even.
        ((500, 375), (330, 248), (53, 12)),
        ((375, 500), (248, 330), (12, 53)),
        ((640, 427), (371, 248), (74, 12)),  # 73.5 -> 74
        ((501, 427), (290, 248), (33, 12)),
        ((243, 227), (265, 248), (20, 12)),  # 20.5 -> 20
        ((300, 300), (248, 248), (12, 12)),
        ((100, 90), (275, 248), (26, 12)),  # 25.5 -> 26
    ],
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crop_equals_resize_and_centre_crop_by_hand(size, resized, corner, interpolation):
    image = photo(*size)
    how = getattr(Image.Resampling, interpolation.upper())
    left, top = corner
    expected = np.asarray(image.resize(resized, how))[top : top + 224, left : left + 224]
    recipe = CROP.replace(interpolation=interpolation)
    np.testing.assert_array_equal(recipe.view(image), expected)
    mean, std = np.array(IMAGENET[0]), np.array(IMAGENET[1])
    np.testing.assert_allclose(recipe(image), (expected / 255.0 - mean) / std, rtol=1e-5, atol=1e-6)
    assert recipe(image).dtype == np.float32


def test_squash_keeps_the_whole_image_whatever_the_crop():
    image = photo(500, 375)
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(CROP.replace(resize="squash").view(image), expected)


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (640, 200), (150, 120)])
@pytest.mark.parametrize(
    "changes", [{"resize": "squash"}, {}, {"crop_pct": 1.0}, {"crop_pct": 1.25}], ids=str
)
def test_pixels_are_seen_where_the_placement_says(size, changes):
    width, height = size
    recipe = CROP.replace(interpolation="bilinear", **changes)
    image = np.zeros((height, width), np.float32)
    x, y = width // 2 + 9, height // 2 - 14
    image[y - 4 : y + 5, x - 4 : x + 5] = 255  # its middle is the pixel (x, y)
    seen = recipe.view(Image.fromarray(image).convert("RGB"))[..., 0].astype(np.float64)
    rows, columns = np.mgrid[:224, :224] + 0.5
    found = np.array([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
    placed = 224 * (recipe.placement(width, height) @ [x + 0.5, y + 0.5, 1])[:2]
    np.testing.assert_allclose(found, placed, atol=0.1)  # pixels; the filter's weights are rounded


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_box_of_a_turned_photo_lies_where_the_upright_photo_shows_it(tmp_path, kind, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    file = tmp_path / f"photo.{kind.lower()}"
    photo(320, 200).save(file, kind, exif=exif.tobytes())
    with Image.open(file) as lying:
        upright = ImageOps.exif_transpose(lying)
        seen, box = CROP.view(read_image(file)), (0.25, 0.125, 0.75, 0.875)
        found = CROP.to_image(box, file)
        assert found == CROP.to_image(box, *upright.size) == CROP.to_image(box, lying)
        assert found == CROP.to_image(box, file.read_bytes()) == CROP.to_image(box, read_image(file))
    left, top, right, bottom = found
    assert 0 < left < right < upright.width
    assert 0 < top < bottom < upright.height
    # What lies in the box is what the model saw there, resized by somebody else's hand.
    again = upright.convert("RGB").resize((112, 168), Image.Resampling.BICUBIC, box=found)
    difference = np.abs(np.asarray(again, int) - seen[28:196, 56:168])
    assert difference.mean() < 3, difference.mean()


def test_a_box_is_given_in_the_pixels_of_the_photo_and_not_of_its_half(tmp_path):
    large = photo(6200, 4200)
    large.save(tmp_path / "a.jpg", quality=50)
    box, expected = (0.5, 0.5, 1.0, 1.0), CROP.to_image((0.5, 0.5, 1.0, 1.0), 6200, 4200)
    for image in (tmp_path / "a.jpg", str(tmp_path / "a.jpg"), large, np.asarray(large)):
        assert CROP.to_image(box, image) == expected


def test_a_width_alone_and_a_image_with_a_height_are_refused():
    with pytest.raises(TypeError, match="height is missing"):
        CROP.to_image((0.0, 0.0, 1.0, 1.0), 8)
    with pytest.raises(TypeError, match="leave it out"):
        CROP.to_image((0.0, 0.0, 1.0, 1.0), photo(8, 8), 8)
    with pytest.raises(ImageError, match="does not exist"):
        CROP.to_image((0.0, 0.0, 1.0, 1.0), "missing.jpg")


def test_an_image_of_the_right_size_is_not_touched():
    image = photo(224, 224)
    np.testing.assert_array_equal(CROP.replace(crop_pct=1.0).view(image), np.asarray(image))


def test_crop_larger_than_the_image_is_padded_with_black():
    # crop_pct 2 resizes the shorter side to 5 for a crop of 10: 5 x 7, padded 2 left, 1 above.
    recipe = Preprocess(10, 2.0, "bicubic", *HALF)
    image = photo(5, 7)
    view = recipe.view(image)
    expected = np.zeros((10, 10, 3), np.uint8)
    expected[1:8, 2:7] = np.asarray(image)
    np.testing.assert_array_equal(view, expected)


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (40, 20_000)])
def test_a_very_long_image_costs_no_more_than_its_crop(size):
    # The whole resized form of 1 x 30,000 would be 1.8 gigapixels.
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    view = CROP.view(image)
    assert view.shape == (224, 224, 3)
    np.testing.assert_allclose(view.astype(int), 127, atol=2)


def test_cropped_region_alone_equals_the_crop_of_the_whole(monkeypatch):
    image = photo(90, 2000)
    whole = CROP.view(image)
    monkeypatch.setattr("vitjax.data.transforms._MOST_RESIZED", 1)
    # The positions are the same numbers up to rounding, which may turn one level in each of two passes.
    assert np.abs(CROP.view(image).astype(int) - whole).max() <= 2


def test_every_model_has_its_preprocessing():
    for name in vitjax.list_models():
        recipe = preprocess(name)
        model = vitjax.build(name)
        assert recipe.image_size == model.img_size, name


@pytest.mark.parametrize(
    ("name", "size", "crop", "stats"),
    [
        ("deit_small_patch16_224", 224, 0.9, IMAGENET),
        ("deit_small_patch16_224.fb_in1k", 224, 0.9, IMAGENET),
        ("deit3_small_patch16_224", 224, 1.0, IMAGENET),
        ("deit3_small_patch16_224.fb_in1k", 224, 0.9, IMAGENET),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", 224, 0.9, HALF),
        ("vit_small_patch16_384", 384, 1.0, HALF),
        ("hf:timm/vit_small_patch14_dinov2.lvd142m", 518, 1.0, IMAGENET),
        (vitjax.DEMO_WEIGHTS, 224, 1.0, IMAGENET),
    ],
)
def test_numbers_of_known_weights(name, size, crop, stats):
    assert preprocess(name) == Preprocess(size, crop, "bicubic", *stats)


def test_input_is_that_of_the_weights_else_of_the_name_unless_told(tmp_path):
    other, name = str(tmp_path / "mine.safetensors"), "deit3_small_patch16_224"
    assert model_input("", name) == preprocess(name)
    assert model_input(other, name) == preprocess(name), "nothing lies beside the weights"
    assert model_input(f"{name}.fb_in1k", name).crop_pct == 0.9
    told = model_input("", name, img_size=98, resize="squash", interpolation="bilinear")
    assert told == Preprocess(98, 1.0, "bilinear", *IMAGENET, "squash")
    with pytest.raises(ValueError, match="model 'deit_smal' is unknown"):
        model_input(other, "deit_smal")


def test_a_name_with_many_recipes_answers_for_the_tags_it_knows():
    assert preprocess("resnet50") == Preprocess(224, 0.95, "bicubic", *IMAGENET)
    assert preprocess("hf:timm/resnet50.tv_in1k") == Preprocess(224, 0.875, "bilinear", *IMAGENET)
    with pytest.raises(ValueError, match=r"'resnet50\.gluon_in1k' is unknown"):
        preprocess("resnet50.gluon_in1k")


def test_unknown_name_lists_the_nearest():
    with pytest.raises(
        ValueError, match=r"'deit_smal_patch16_224' is unknown; nearest: 'deit_small_patch16_224'"
    ):
        preprocess("deit_smal_patch16_224")


TIMM = {
    "architecture": "x",
    "pretrained_cfg": {
        "input_size": [3, 256, 256],
        "crop_pct": 0.95,
        "interpolation": "bilinear",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    },
}
DINOV2 = {
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": list(IMAGENET[0]),
    "image_std": list(IMAGENET[1]),
    "rescale_factor": 0.00392156862745098,
}
VIT = {
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}

DINOV3 = {  # transformers' processor, which squashes
    "size": {"height": 224, "width": 224},
    "crop_size": None,
    "do_center_crop": None,
    "do_resize": True,
    "resample": 2,
    "image_mean": list(IMAGENET[0]),
    "image_std": list(IMAGENET[1]),
    "rescale_factor": 1 / 255,
}


@pytest.mark.parametrize(
    ("file", "config", "expected"),
    [
        ("config.json", TIMM, Preprocess(256, 0.95, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
        (
            "config.json",
            TIMM["pretrained_cfg"],
            Preprocess(256, 0.95, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ),
        ("preprocessor_config.json", DINOV2, Preprocess(224, 224 / 256, "bicubic", *IMAGENET)),
        ("preprocessor_config.json", VIT, Preprocess(224, 1.0, "bilinear", *HALF, resize="squash")),
        ("preprocessor_config.json", DINOV3, Preprocess(224, 1.0, "bilinear", *IMAGENET, resize="squash")),
        (
            "preprocessor_config.json",
            VIT | {"size": 224},
            Preprocess(224, 1.0, "bilinear", *HALF, resize="squash"),
        ),
    ],
)
def test_weights_file_brings_the_recipe_beside_it(tmp_path, monkeypatch, file, config, expected):
    (tmp_path / file).write_text(json.dumps(config))
    assert preprocess(tmp_path / "model.safetensors") == expected

    def fetch(source):
        from vitjax.weights import WeightsError

        if not source.endswith("/" + file):
            raise WeightsError("no such file")
        return tmp_path / file

    monkeypatch.setattr("vitjax.weights.hub.fetch", fetch)
    assert preprocess("hf:someone/something") == expected


@pytest.mark.parametrize("short", [196, 224, 250, 256, 392, 518, 1000])
def test_shorter_side_of_a_processor_survives_the_division(short):
    for side in (112, 224, 518):
        image = Image.new("RGB", (short * 2, short))
        recipe = Preprocess(side, side / short, "bicubic", *HALF)
        if side <= short:
            # Already of the right shorter side: nothing is resampled, so the crop is exact.
            marked = Image.new("RGB", image.size)
            marked.putpixel((short, short // 2), (255, 255, 255))
            assert recipe.view(marked).max() == 255


@pytest.mark.parametrize(
    "change",
    [
        {"crop_size": {"height": 224, "width": 200}},
        {"size": {"height": 256, "width": 256}},  # squashed and then cropped: not expressible
        {"resample": 1},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": [0.5]},
        {"size": "large"},
        {"image_std": None},
    ],
)
def test_a_recipe_that_is_not_supported_is_refused_not_bent(tmp_path, change):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(DINOV2 | change))
    with pytest.raises(ValueError, match="not supported"):
        preprocess(tmp_path / "model.npz")


def test_a_weights_file_alone_asks_for_a_model_name(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 384}')
    with pytest.raises(ValueError, match="pass a model name"):
        preprocess(tmp_path / "model.npz")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        preprocess(tmp_path / "model.npz")


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"crop_pct": 0.0},
        {"interpolation": "cubic"},
        {"resize": "pad"},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (0.5,)},
    ],
)
def test_values_out_of_range_name_the_field(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(CROP, **change)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_base_patch16_clip_quickgelu_224", (224, 1.0, "bicubic", OPENAI, "crop")),
        ("clip_vit_large_patch14_336", (336, 1.0, "bicubic", OPENAI, "crop")),
        ("vit_large_patch14_clip_224.laion2b", (224, 1.0, "bicubic", HALF, "crop")),
        ("vit_so400m_patch14_siglip_384", (384, 1.0, "bicubic", HALF, "squash")),
        ("vit_base_patch16_siglip_256.v2_webli", (256, 1.0, "bilinear", HALF, "squash")),
        ("siglip2_large_patch16_512", (512, 1.0, "bilinear", HALF, "squash")),
        ("vit_large_patch16_dinov3.lvd1689m", (256, 1.0, "bicubic", IMAGENET, "crop")),
        ("vit_large_patch16_dinov3.sat493m", (256, 1.0, "bicubic", SATELLITE, "crop")),
    ],
)
def test_each_family_and_tag_has_its_own_input(name, expected):
    size, crop, how, (mean, std), resize = expected
    assert preprocess(name) == Preprocess(size, crop, how, mean, std, resize)


def test_dinov3_is_read_as_timm_does_or_as_transformers_does():
    name, like = "vit_small_patch16_dinov3", {"resize": "squash", "interpolation": "bilinear"}
    assert preprocess(name) == Preprocess(256, 1.0, "bicubic", *IMAGENET)
    theirs = Preprocess(224, 1.0, "bilinear", *IMAGENET, "squash")
    assert preprocess(name, img_size=224).replace(**like) == theirs
    assert model_input(f"hf:timm/{name}.lvd1689m", name, img_size=224, **like) == theirs


def test_a_size_that_a_model_refuses_is_none_of_its_preprocessing():
    for name in vitjax.list_models():
        step = MODELS[name].multiple
        side = vitjax.build(name, img_size=70 * step).img_size
        assert preprocess(name, img_size=side).image_size == side == 70 * step
        if step == 1:
            vitjax.build(name, img_size=99)
            continue
        wanted = f"model '{name}' takes .* multiples of {step} pixels: give {7 * step}, or {8 * step}"
        with pytest.raises(UserError, match=wanted):
            preprocess(name, img_size=7 * step + 1)
        with pytest.raises(UserError, match="is not a multiple of patch_size"):
            vitjax.build(name, img_size=7 * step + 1)

import argparse

from benchmarks.sparsify import variants


def test_a_model_with_predictors_of_its_own_is_measured_dense_and_at_each_ratio():
    args = argparse.Namespace(name="dynamic_convnext_tiny", dtype="bfloat16", ratio=[0.9, 0.7], r=[13])
    models = variants(args)
    assert list(models) == ["dense", "ratio 0.9", "ratio 0.7"]
    assert models["dense"].token_reduction is None
    assert [models[label].token_reduction.ratios[0] for label in list(models)[1:]] == [0.9, 0.7]
    assert {model.dtype for model in models.values()} == {"bfloat16"}

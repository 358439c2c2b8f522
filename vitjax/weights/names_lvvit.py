"""Names of LV-ViT: timm's in kind, in TokenLabeling's files as in those of DynamicViT's teacher."""

from vitjax.weights.layout import Layout, Positions

# TokenLabeling resizes the table (CLS row first) with plain bicubic interpolation, by output size.
LAYOUTS = (
    Layout(
        "LV-ViT",
        "patch_embed.proj.weight",
        r"patch_embed\.conv1\.weight",
        positions=Positions(antialias=False, prefix_rows=1),
    ),
)

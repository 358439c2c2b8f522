"""Class names to prompts: the texts that stand for a class in zero-shot classification."""

from collections.abc import Sequence

from vitjax.errors import UserError

PHOTO = ("a photo of a {}.",)


def prompts(names: Sequence[str], templates: Sequence[str] = PHOTO) -> list[list[str]]:
    """Every class name in every template.

    Underscores become spaces, and of a path only the last part counts, as folder names need it.

    Source: Radford et al. 2021, CLIP (arXiv:2103.00020), section 3.1.4. Their list of 80 templates is not
    included; an ensemble of a few that fit the images does most of what it does.

    Args:
        names: of the classes.
        templates: each holds {} once, where the name goes.

    Returns:
        for each class its prompts, in the order of the templates.

    Raises:
        ValueError: no names, an empty name, or a template without exactly one {}.

    >>> prompts(["tabby_cat", "dogs/beagle"], ["a photo of a {}.", "{}"])
    [['a photo of a tabby cat.', 'tabby cat'], ['a photo of a beagle.', 'beagle']]
    """
    if isinstance(names, str) or isinstance(templates, str):
        raise TypeError("prompts: give lists of names and of templates, [ ] around one")
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise UserError(f"prompts: template {(wrong or [''])[0]!r} must hold {{}} once, where the name goes")
    words = [name.rsplit("/", 1)[-1].replace("_", " ").strip() for name in names]
    if not words or not all(words):
        raise UserError(f"prompts: there are no class names, or one is empty: {list(names)[:5]}")
    return [[template.replace("{}", word) for template in templates] for word in words]

"""Names of timm's models: known ones, and the nearest to a wrong one."""

import difflib

import timm


def check_model_name(name: str) -> None:
    """Raise ValueError, naming the nearest models, unless timm has this model.

    Names that make timm fetch a model's description (`hf-hub:...`, `local-dir:...`) are refused: a config, or a saved
    file, says what is built.
    """
    model, _, tag = name.partition('.')
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=3)
        hint = f'; the nearest are {near}' if near else ''
        raise ValueError(f'timm {timm.__version__} has no model {name!r}{hint}')
    tagged = (
        timm.list_pretrained(f'{model}.*')
        if hasattr(timm, 'list_pretrained')
        else timm.list_models(f'{model}.*', pretrained=True)
    )
    if tag and name not in tagged:
        raise ValueError(f'timm {timm.__version__} has no weights {tag!r} of {model}; it has {tagged}')

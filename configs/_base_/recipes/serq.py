"""Sequential error reduction W4A4. A config takes it in with `default_hooks = dict(quantization=_base_.quantization)`.

Options of the recipe go into a dict: recipe=dict(type='serq', grids='published', views=1).
"""

custom_imports = dict(imports=['erq_mm.engine'], allow_failed_imports=False)
quantization = dict(
    type='ERQHook',
    recipe='serq',
    w_bits=4,
    a_bits=4,
    scope='linears',
    calibration=dict(num_images=16, split='train', seed=0),
)

"""ERQ W4A4. A config takes it in with `default_hooks = dict(quantization=_base_.quantization)`.

Options of the recipe go into a dict: recipe=dict(type='erq', lam_mode='sum', lam=1e3, rounding='released').
"""

custom_imports = dict(imports=['erq_mm.engine'], allow_failed_imports=False)
quantization = dict(
    type='ERQHook',
    recipe='erq',
    w_bits=4,
    a_bits=4,
    scope='linears',  # 'all' also takes the neck's, RPN's and heads' convolutions: the protocol of the published tables
    calibration=dict(num_images=1, split='train', seed=0),
)

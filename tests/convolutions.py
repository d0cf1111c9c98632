"""Options of `nn.Conv2d` that everything which handles convolutions is tested with."""

CONVOLUTIONS = [
    dict(kernel_size=3, padding=1),
    dict(kernel_size=1),
    dict(kernel_size=(3, 2), padding=(2, 0), stride=(2, 1)),
    dict(kernel_size=3, dilation=2, padding=2, stride=2),
    dict(kernel_size=4, stride=4),
]

"""Named steps that a bundle declares, the same in training and in serving.

`images` makes tensors of pictures, `heads` makes answers of tensors, `pipeline` runs the steps of a manifest.
"""

"""Named steps that a bundle declares, the same in training and in serving.

`images` makes tensors of pictures, `rows` of JSON and texts, `heads` makes answers of tensors, and `pipeline` runs
the steps of a manifest.
"""

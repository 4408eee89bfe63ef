"""Named steps that a bundle declares, the same in training and in serving.

Tensors are made of pictures by `images`, of texts by `text`, of named columns by `tabular`, and of plain JSON by
`rows`. Answers are made of them by `classification`, `detection`, `heads` (segmentation), `regression` and
`embedding`; `tasks` says which for a task. `pipeline` runs the steps of a manifest.
"""

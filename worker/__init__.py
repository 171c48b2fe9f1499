"""The worker's side: a training script becomes a worker, and the program `ps-worker`.

It speaks to the server by `leeway.protocol` alone and never imports `leeway.ps`. What users import is `leeway`.
"""

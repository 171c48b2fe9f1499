"""The callback for the `Trainer` of Hugging Face's transformers; needs the extra `transformers`.

trainer = transformers.Trainer(..., callbacks=[LeewayCallback(leeway.connect())])
"""

try:
    from leeway.worker.callbacks.transformers import LeewayCallback
except ImportError as error:
    raise ImportError(
        "leeway.transformers needs transformers and accelerate: pip install '.[transformers]' in your clone of Leeway "
        f"({error})"
    ) from error

__all__ = ["LeewayCallback"]

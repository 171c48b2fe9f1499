"""The callback for the `Trainer` of Hugging Face's transformers; needs the extra `leeway[transformers]`.

trainer = transformers.Trainer(..., callbacks=[LeewayCallback(leeway.connect())])
"""

try:
    from leeway.worker.callbacks.transformers import LeewayCallback
except ImportError as error:
    raise ImportError(
        f"leeway.transformers needs transformers and accelerate: pip install 'leeway[transformers]' ({error})"
    ) from error

__all__ = ["LeewayCallback"]

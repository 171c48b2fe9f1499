"""The callback for Lightning's `Trainer`; needs the extra `lightning`.

trainer = lightning.Trainer(callbacks=[LeewayCallback(leeway.connect())])
"""

try:
    from leeway.worker.callbacks.lightning import LeewayCallback
except ImportError as error:
    raise ImportError(
        f"leeway.lightning needs Lightning: pip install '.[lightning]' in your clone of Leeway ({error})"
    ) from error

__all__ = ["LeewayCallback"]

"""From a checkpoint to masks: in Python (models and their answers), and of files (``predict --input``)."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "answers": "Answer",
        "loop": "predict_files",
        "model": "Model Sam",
        "online": "Online OnlineAnswer",
        "predictor": "Predictor load_predictor",
    },
)

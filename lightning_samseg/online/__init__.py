"""AuxOL without Lightning: predict, hear an expert, learn, fuse; the scores of a stream."""

from lightning_samseg.lazy import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "batch": "OnlineBatch",
        "cache": "LogitsCache",
        "expert": "Expert",
        "fusion": "Fusion fuse optimal_alpha",
        "learner": "OnlineLearner",
        "prompter": "Prompter",
        "predictions": "Feedback Prediction",
    },
)

"""One run: its folder, who may write into it, loggers, provenance, requeue."""

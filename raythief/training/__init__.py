"""Fine-tuning on Ray Train: victims, extractors and baselines all go through it.

    data        examples in artifacts -> a data set that all workers read without copies
    encoded     their tokens, which trainings share
    schedule    which rows a step trains on, and at what rate: a function of (seed, step)
    objective   the loss of hard and of soft labels
    loop        what a worker does
    parallel    one model on several workers
    memory      what is done where a GPU's memory is short
    state       where a training is: its checkpoints
    local       those of a training without a worker group
    continuation  a longer training that goes on from a shorter one
    selection   which of its weights are kept
    collapse    signs that it has learned nothing
    record      what it tells while it runs
    tracking    what it tells to MLflow and to Weights & Biases
    runner      the start of it all

A run that was killed and started again ends with the same weights as one that was not.
"""

from raythief.training.continuation import find as earlier
from raythief.training.data import Examples
from raythief.training.job import Job
from raythief.training.runner import StoppedError, train

__all__ = ["Examples", "Job", "StoppedError", "earlier", "train"]

"""Training: tasks and losses, optimiser, step, evaluation, mining, checkpoints, preemption."""

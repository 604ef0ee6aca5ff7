"""Plain PyTorch, DDP and FSDP2: one line attaches a run to an optimizer."""

from gradlog.integrations.torch.attachment import attach, named_parameters

__all__ = ["attach", "named_parameters"]
